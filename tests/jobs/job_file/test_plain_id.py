"""Names as submission ids; tests/jobs/test_submit.py talks to a real job server."""

from __future__ import annotations

import pytest

from jobs.job_file.plain_id import plain_id


@pytest.mark.parametrize("name", ["nightly", "nightly-20261124T010000Z", "A-1"])
def test_a_plain_name_is_an_id(name: str) -> None:
    assert plain_id(name) == name


def test_other_names_become_different_ids() -> None:
    ids = [plain_id(name) for name in ("café", "cafè", "caf/", "夜間", "a b", "a-b")]
    assert len(set(ids)) == len(ids)
    assert all(found.isascii() and found.replace("-", "").isalnum() for found in ids)
