"""`janus-batch report`: the page is written and its counts are printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.report import report
from tests.support import toy_job
from workflows.storage.errors import StorageError


def test_the_place_the_size_and_the_counts_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    toy_job.render(toy_job.make_job(path, tmp_path / "out"))

    assert report(str(tmp_path / "out"), None) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"report      {tmp_path}/out/report.html (0.")
    assert lines[1] == "pictures    all of 2"
    assert lines[2].split()[:2] == ["by", "rules"]
    assert "0 near-duplicate" in lines[2]
    assert (tmp_path / "out/report.html").is_file()


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has no job.json"):
        report(str(tmp_path), None)
