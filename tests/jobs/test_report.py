"""`janus-batch report`: writes the page and prints its counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.report import report
from tests.support import toy_job
from workflows.storage.errors import StorageError
from workflows.storage.path import LocationError


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


def test_compares_two_outputs(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, weight in (("a", 5.0), ("b", 7.0)):
        path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
        toy_job.render(toy_job.make_job(path, tmp_path / name, recipe=toy_job.recipe(cfg_weights=(weight,))))

    assert report("a", None, other="b") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("comparison  comparison.html (0.")
    assert lines[1:] == ["pairs       all of 2; 0 only in A, 0 only in B", "differs     cfg_weights"]
    assert (tmp_path / "comparison.html").is_file()
    before = toy_job.bytes_of(tmp_path)
    for file, message in (
        ("b/job.json", "--to: b/job.json is inside the output .*/b; name"),
        ("x/c.html", "no folder x"),
    ):
        with pytest.raises(LocationError, match=message):
            report("a", None, other="b", to=file)
    assert toy_job.bytes_of(tmp_path) == before


def test_refuses_a_folder_that_is_not_an_output(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has no job.json"):
        report(str(tmp_path), None)
