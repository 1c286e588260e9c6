"""The limits of places: said before anything is written, with what fits, and refused where the export is uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Command
from tests.support.exports import export, finished_with
from tests.support.toy_job import make_job, plan_job, recipe, write_prompts
from workflows.export import limits
from workflows.export.layouts.layout import ExportError
from workflows.export.limits import bytes_text, limits_of_job
from workflows.job import Images

SEVEN = {"id": [f"p{n}" for n in range(7)], "prompt": ["a fox"] * 7, "metadata": ["{}"] * 7}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FILES_IN_FOLDER", 5)
    monkeypatch.setattr(limits, "MAX_FILES", 9)


@pytest.mark.parametrize(
    ("layout", "shard_rows", "expected"),
    [
        ("imagefolder", 7, ["8 files in a folder, and the Hugging Face hub takes 5 in a folder; --layout parquet"]),
        ("imagefolder", 1, ["7 files in one folder (its subfolders)", "14 files, and the Hugging Face hub"]),
        ("geneval", 7, ["7 files in one folder"]),
        ("dpg", 7, ["7 files in one folder"]),
        ("parquet", 7, []),
        ("parquet", 1, ["7 files in one folder, and the Hugging Face hub takes 5 in a folder; render with a larger"]),
    ],
)  # fmt: skip
def test_an_export_says_what_it_exceeds(tmp_path: Path, layout: str, shard_rows: int, expected: list[str]) -> None:
    job, lines = finished_with(tmp_path, SEVEN, shard_rows=shard_rows), list[str]()

    def say(line: str) -> None:
        assert not (tmp_path / "ds").exists()
        lines.append(line)

    export(job, tmp_path / "ds", layout, say=say)

    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


def test_an_upload_that_the_hub_does_not_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.export.write.open_repository", lambda dest, name: None)

    with pytest.raises(
        ExportError, match=r"--push-to org/x: 8 files in a folder.*--layout parquet or webdataset packs"
    ):
        export(finished_with(tmp_path, SEVEN, shard_rows=7), tmp_path / "ds", "imagefolder", push_to="org/x")
    assert not (tmp_path / "ds").exists()


def test_a_plan_says_what_its_output_exceeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    prompts = write_prompts(tmp_path / "prompts.parquet", SEVEN)
    command.write(name="x", prompts=prompts, output=str(tmp_path / "out"), model={"checkpoint": "toy"}, shard_rows=7)

    _, out, err = command("plan", str(command.job_file))

    assert (
        "note          7 files in a folder of images/, and the Hugging Face hub takes 5 in a folder; images.layout"
        in out
    ), err


def test_a_pack_larger_than_many_places_take_is_named(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", SEVEN)
    job = make_job(prompts, tmp_path / "out", recipe=recipe(images_per_prompt=4), shard_rows=7,
                   images=Images(layout="webdataset"))  # fmt: skip

    assert limits_of_job(job, plan_job(job), 1e8) == []
    [line] = limits_of_job(job, plan_job(job), 2e8)
    assert line == "a shard's pack takes about 5.6 GB, and many places take files up to 5 GB; lower shard_rows"


def test_a_plan_names_columns_that_a_layout_will_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"], "source": [{"file_name": "x"}]})
    command.write(name="x", prompts=prompts, output=str(tmp_path / "out"), model={"checkpoint": "toy"})

    _, out, _ = command("plan", str(command.job_file))

    notes = [line for line in out.splitlines() if line.startswith("note ")]
    assert len(notes) == 1
    assert "export --layout imagefolder will refuse this output: imagefolder: column `source` has a field" in notes[0]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1e3, "1 kB"), (999_600, "1 MB"), (7.05e9, "7.05 GB"), (25e12, "25 TB")],
)
def test_a_number_of_bytes_has_three_digits_and_a_unit(number: float, text: str) -> None:
    assert bytes_text(number) == text
