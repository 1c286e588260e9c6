"""What a job derives from its prompt files: made once, kept in the output, and made again after an interruption."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import faults_of, make_job, manifest_of, plan_job, rejected_of, render
from workflows.job import PromptReading, RenderJob
from workflows.output.remaining import find_job_prompts
from workflows.plan import SourceChangedError
from workflows.prompt_files.conversion.convert import convert
from workflows.prompts import PromptsError, find_prompt_files, keep_prompt_files

TEXT = "Caption,kind\na cat,x\ntoy:nan,y\n,z\na dog,x\na fox,y\n"


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    (tmp_path / "prompts.csv").write_text(TEXT)
    return make_job(tmp_path / "prompts.csv", tmp_path / "out", reading=PromptReading(columns={"prompt": "Caption"}))


def kept(job: RenderJob) -> list[str]:
    folder = f"{job.output}/prompts"
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "workflows.prompt_files.conversion.find.convert", lambda *_, **__: pytest.fail("converted again")
    )


def test_a_csv_file_is_rendered_with_ids_rejected_rows_and_carried_columns(job: RenderJob) -> None:
    render(job)

    assert [(row["image_id"], row["prompt"], row["kind"]) for row in manifest_of(job)] == [
        ("prompts-000000000_0", "a cat", "x"),
        ("prompts-000000003_0", "a dog", "x"),
        ("prompts-000000004_0", "a fox", "y"),
    ]
    assert [(row["row"], row["prompt_id"], row["source"]) for row in rejected_of(job)] == [
        (2, "prompts-000000002", f"file://{job.prompts}"),
        (1, "prompts-000000001", f"file://{job.prompts}"),
    ]
    assert faults_of(job) == []


def test_a_file_is_converted_once_and_later_runs_read_the_kept_rows(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    render(job)
    (name,) = kept(job)
    written = os.stat(f"{job.output}/prompts/{name}").st_mtime_ns
    no_conversion(monkeypatch)

    assert plan_job(job).num_rows_remaining == 0
    assert os.stat(f"{job.output}/prompts/{name}").st_mtime_ns == written


def test_nothing_is_kept_before_the_output_is_claimed_and_one_conversion_serves_both(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = find_job_prompts(job)
    assert kept(job) == []
    no_conversion(monkeypatch)
    assert find_job_prompts(job) == files

    (file,) = keep_prompt_files(files, job.output, {})

    assert kept(job) == [os.path.basename(file.converted)]
    assert not os.path.exists(files[0].converted)
    assert keep_prompt_files([file], job.output, {}) == [file]


def test_rows_that_are_lost_from_the_output_are_converted_again(job: RenderJob) -> None:
    render(job)
    (name,) = kept(job)
    os.unlink(f"{job.output}/prompts/{name}")

    assert plan_job(job).num_rows_remaining == 0
    assert kept(job) == [name]


def test_an_interrupted_conversion_leaves_nothing(job: RenderJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.add_key_value_metadata", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_job_prompts(job)

    render(job)
    assert len(manifest_of(job)) == 3


def test_a_file_that_changes_while_it_is_converted_is_refused(job: RenderJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert_and_change(*args: Any) -> None:
        convert(*args)
        Path(job.prompts).write_text(TEXT + "a hen,x\n")

    with monkeypatch.context() as patch:
        patch.setattr("workflows.prompt_files.conversion.find.convert", convert_and_change)
        with pytest.raises(PromptsError, match=r"prompts.csv was changed while it was read; run the command again"):
            find_job_prompts(job)
    assert find_job_prompts(job)[0].num_rows == 6


def test_what_takes_time_is_said_once(job: RenderJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.prompt_files.conversion.find.LARGE_BYTES", 1)
    some, lines = replace(job, reading=replace(job.reading, sample=2)), []
    for _ in range(2):
        find_job_prompts(some, lines.append)
    assert lines == ["converting prompts.csv to Parquet ...", "selecting rows of the prompts ..."]


def test_one_other_byte_in_a_large_file_is_another_version(tmp_path: Path) -> None:
    """Of a large Parquet file only pieces are read; text is read as a whole."""
    (tmp_path / "a.txt").write_bytes(b"a picture of a cat\n" * 500_000)
    before = find_prompt_files(str(tmp_path), {})[0].version
    with open(tmp_path / "a.txt", "rb+") as file:
        file.seek(4_321_987)
        file.write(b"b")
    assert find_prompt_files(str(tmp_path), {})[0].version != before


def test_a_changed_file_is_refused_after_rows_of_it_were_rendered(job: RenderJob) -> None:
    render(job)
    Path(job.prompts).write_text(TEXT.replace("a fox", "a hen"))
    with pytest.raises(SourceChangedError, match=r"prompts.csv was changed after rows of it were rendered"):
        plan_job(job)


def test_files_on_object_storage_are_converted_and_kept_there(s3_server: S3Server, s3_folder: str) -> None:
    fs = s3_server.filesystem()
    fs.pipe_file(f"{s3_folder}/prompts/a.jsonl", b'{"prompt": "a cat", "n": 1}\n{"prompt": "a dog", "n": 0.5}\n')
    reading = PromptReading(where="n < 1")
    job = make_job(f"{s3_folder}/prompts", f"{s3_folder}/out", storage=s3_server.storage_options, reading=reading)
    render(job)
    assert [(row["image_id"], row["n"]) for row in manifest_of(job)] == [("a-000000001_0", 0.5)]
    assert len(fs.ls(f"{s3_folder}/out/prompts")) == 2
    assert plan_job(job).num_rows_remaining == 0
