"""`janus-batch export`: writes the export and prints its counts; errors become one line and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Command
from tests.support.exports import finished_with
from tests.support.toy_job import recipe


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def test_prints_the_counts(tmp_path: Path, command: Command) -> None:
    finished_with(tmp_path, {"id": ["a", "b"], "prompt": ["a", "toy:nan b"]}, recipe=recipe(images_per_prompt=4))

    code, out, _ = command("export", str(tmp_path / "out"), str(tmp_path / "dpg"), "--layout", "dpg")

    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"export     {tmp_path}/dpg (dpg)"
    assert lines[1].startswith("images     4 of 1 prompts, ")
    assert lines[2] == "files      1 and README.md, the dataset card"


def test_two_prompts_for_one_file_are_exit_code_2(tmp_path: Path, command: Command) -> None:
    finished_with(tmp_path, {"id": ["a", "A"]})

    code, _, err = command("export", str(tmp_path / "out"), str(tmp_path / "dpg"), "--layout", "dpg")

    assert code == 2
    assert err.startswith("janus-batch: prompts 'a' (shard prompts-")


def test_missing_files_are_exit_code_1(tmp_path: Path, command: Command) -> None:
    finished_with(tmp_path, {"id": ["a"]})
    arguments = ("export", str(tmp_path / "out"), str(tmp_path / "ds"), "--layout", "imagefolder")
    command(*arguments)
    next((tmp_path / "ds").rglob("*.png")).unlink()

    code, _, err = command(*arguments)

    assert code == 1
    assert f"janus-batch: {tmp_path}/ds holds 1 data files, but 2 were written to it" in err
    assert command(*arguments)[0] == 0
