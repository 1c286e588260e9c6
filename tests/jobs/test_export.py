"""`janus-batch export`: writes the export and prints its counts; errors become one line and an exit code."""

from __future__ import annotations

import re
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


def test_prints_what_each_rule_removed_and_the_splits(tmp_path: Path, command: Command) -> None:
    finished_with(tmp_path, {"id": ["a", "b", "c"]}, recipe=recipe(images_per_prompt=2))
    arguments = ["--layout", "parquet", "--where", "prompt_id != 'c'", "--top", "1", "--by", "image_index"]

    code, out, err = command("export", str(tmp_path / "out"), str(tmp_path / "ds"), *arguments, "--split", "train=1")

    assert (code, err) == (0, "")
    assert re.fullmatch(r"images     2 of 2 prompts, \d\.\d\d? kB", out.splitlines()[1])
    assert out.splitlines()[2:] == [
        "split      train: 2 images of 2 prompts",
        "removed    2 images by --where prompt_id != 'c'",
        "removed    2 images by --top 1 --by image_index",
        "files      1 and README.md, the dataset card",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--where", "nothing > 1"],
            "--where: nothing is no column (text is in 'single quotes'); `janus-batch score ",
        ),
        (["--top", "1"], "--top N and --by COLUMN belong together, got only --top"),
        (["--split", "train=0.5"], "the shares of --split must add up to 1"),
        (["--pairs", "device"], "--pairs names a column of numbers, got 'device'"),
    ],
)
def test_a_wrong_rule_is_exit_code_2(tmp_path: Path, command: Command, arguments: list[str], message: str) -> None:
    finished_with(tmp_path, {"id": ["a"]})

    code, _, err = command("export", str(tmp_path / "out"), str(tmp_path / "ds"), "--layout", "parquet", *arguments)

    assert code == 2
    assert message in err
    assert not (tmp_path / "ds").exists()
