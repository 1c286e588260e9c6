"""What `submit` uploads, and the refusal of a job whose files would stay behind; no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.submit.job_server import SubmissionError
from jobs.submit.upload import check_upload, stage
from tests.support.command import ROOT, write_job


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    for name in (
        "prompts/a.parquet",
        "prompts/b.parquet",
        "prompts/notes.txt",
        "docs/c.parquet",
        "ck/model.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def check(working_dir: Path, *, excludes: tuple[str, ...] = (), **needed: str) -> list[str]:
    """Stage and check; returns the names at the top of what is uploaded."""
    staged = working_dir.parent / "staged"
    staged.mkdir()
    stage(staged, working_dir, write_job(working_dir.parent / "job.yaml", "prompts", "out"), needed)
    check_upload(staged, working_dir, needed, excludes)
    return sorted(path.name for path in staged.iterdir())


def test_what_a_job_does_not_need_is_left_out_and_the_program_is_added(working_dir: Path) -> None:
    assert check(working_dir) == ["ck", "prompts", "submitted-job"]
    names = {path.name for path in (working_dir.parent / "staged" / "submitted-job").iterdir()}
    assert names == {"job.yaml", "janus_batch.py", "actors", "workflows", "jobs", ".gitignore"}


def test_a_checkout_is_uploaded_as_its_owner_changed_it(tmp_path: Path) -> None:
    job_file = write_job(tmp_path / "job.yaml", "prompts", "out")
    (tmp_path / "staged").mkdir()
    stage(tmp_path / "staged", ROOT, job_file)

    names = {path.name for path in (tmp_path / "staged").iterdir()}
    assert {"actors", "workflows", "jobs", "janus_batch.py", "pyproject.toml", "submitted-job"} <= names
    assert names.isdisjoint({".git", "tests", "renders", "benchmarks"})
    assert (tmp_path / "staged" / "submitted-job" / "job.yaml").read_bytes() == job_file.read_bytes()


@pytest.mark.parametrize(
    "prompts", ["prompts", "./prompts/", "prompts/*.parquet", "prompts/a.parquet", "**/*.parquet", "."]
)
def test_prompts_that_are_uploaded_are_no_fault(prompts: str, working_dir: Path) -> None:
    (working_dir / ".gitignore").write_text("*.txt\n")
    check(working_dir, prompts=prompts)


def test_a_folder_that_is_left_out_is_uploaded_if_the_job_names_it(working_dir: Path) -> None:
    assert "docs" in check(working_dir, prompts="docs/*.parquet")


@pytest.mark.parametrize(
    ("ignore_file", "patterns", "missing"),
    [
        (".gitignore", "*.parquet\n", "2 of 2 files out of the upload, such as prompts/a.parquet"),
        (".rayignore", "prompts/b.parquet\n", "1 of 2 files out of the upload, such as prompts/b.parquet"),
        ("prompts/.gitignore", "a.parquet\n", "1 of 2 files out of the upload, such as prompts/a.parquet"),
    ],
)
def test_prompts_that_stay_behind_are_named_before_the_upload(
    ignore_file: str, patterns: str, missing: str, working_dir: Path
) -> None:
    (working_dir / ignore_file).write_text(patterns)
    with pytest.raises(SubmissionError, match=rf"prompts: .* or `excludes` leaves {missing}; make an"):
        check(working_dir, prompts="prompts")


def test_excludes_and_checkpoints_count_too(working_dir: Path) -> None:
    with pytest.raises(SubmissionError, match=r"model.checkpoint: .* leaves 1 of 1 .*, such as ck/m"):
        check(working_dir, excludes=("*.safetensors",), **{"model.checkpoint": "ck"})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("nothing/*.parquet", "prompts: nothing in the uploaded folder, .*/work, matches 'nothing/"),
        ("../elsewhere", "prompts: must be in the uploaded folder, .*/work, got '../elsewhere'"),
    ],
)
def test_prompts_that_are_elsewhere_are_refused(prompts: str, message: str, working_dir: Path) -> None:
    with pytest.raises(SubmissionError, match=message):
        check(working_dir, prompts=prompts)


def test_a_folder_that_is_none_or_in_the_way_is_refused(working_dir: Path, tmp_path: Path) -> None:
    job_file = write_job(tmp_path / "job.yaml", "prompts", "out")
    with pytest.raises(SubmissionError, match=r"--working-dir: .*nowhere is not a folder"):
        stage(tmp_path, tmp_path / "nowhere", job_file)
    (working_dir / "submitted-job").mkdir()
    with pytest.raises(SubmissionError, match=r"puts the job into .*work/submitted-job; rename yours"):
        stage(tmp_path, working_dir, job_file)
