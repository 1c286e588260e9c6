"""`janus-batch report`: writes the page and prints its counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.report import report
from tests.support import toy_job
from workflows.storage.errors import StorageError


def test_prints_the_url_the_size_and_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    toy_job.render(toy_job.make_job(path, tmp_path / "out"))

    assert report(str(tmp_path / "out"), None) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"report      {tmp_path}/out/report.html (0.")
    assert lines[1] == "images      all of 2"
    assert lines[2].startswith("rules       ")
    assert "0 near-duplicate" in lines[2]
    assert (tmp_path / "out/report.html").is_file()


def test_refuses_a_folder_that_is_not_an_output(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has no job.json"):
        report(str(tmp_path), None)
