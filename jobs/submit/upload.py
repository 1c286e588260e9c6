"""The folder that `janus-batch submit` uploads: the working directory, the program and the job file.

The folder is staged as symbolic links. Ray follows them when it packs the folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path

from actors.errors import one_line
from janus_batch import ROOT
from jobs.submit.job_server import SMALLER, SubmissionError, files_to_upload, most_bytes
from workflows.prompt_files.formats import prompts_among

PROGRAM = ("janus_batch.py", "actors", "workflows", "jobs")
JOB_FOLDER = "submitted-job"  # for the job file, and for the program unless the working directory is its checkout

# Top-level entries that a job on a cluster does not need. Ray also leaves out the files that .gitignore names.
LEFT_OUT = {".git", ".github", ".ci", ".venv", "benchmarks", "build", "deploy", "dist", "docs", "renders", "tests"}


def default_working_dir() -> Path:
    """The checkout that this program runs from. Raises SubmissionError if the program is installed: no checkout."""
    if not (Path(ROOT) / "pyproject.toml").is_file():
        raise SubmissionError(f"{ROOT} is not a checkout of janus-batch; name the folder to upload with --working-dir")
    return Path(ROOT)


def stage(staged: Path, working_dir: Path, job_file: Path, needed: Mapping[str, str] | None = None) -> None:
    """Fill `staged`, an empty folder, with the files to upload. Raises SubmissionError.

    `needed` maps keys of the job file to relative paths.
    """
    needed = needed or {}
    if not working_dir.is_dir():
        raise SubmissionError(f"--working-dir: {working_dir} is not a folder")
    if (working_dir / JOB_FOLDER).exists():
        raise SubmissionError(f"--working-dir: janus-batch puts the job into {working_dir / JOB_FOLDER}; rename yours")
    left_out = LEFT_OUT - {os.path.normpath(location).split("/")[0] for location in needed.values()}
    for entry in working_dir.resolve().iterdir():
        if entry.name not in left_out:
            (staged / entry.name).symlink_to(entry)
    (staged / JOB_FOLDER).mkdir()
    (staged / JOB_FOLDER / job_file.name).write_bytes(job_file.read_bytes())
    if not _holds_the_program(working_dir):
        for name in PROGRAM:
            (staged / JOB_FOLDER / name).symlink_to(Path(ROOT) / name)
        (staged / JOB_FOLDER / ".gitignore").write_text("__pycache__/\n")


def check_upload(staged: Path, working_dir: Path, needed: Mapping[str, str], excludes: Sequence[str]) -> None:
    """Raise SubmissionError unless Ray uploads every file that the job file names by a relative path, or if it uploads
    too much.
    """
    uploaded = files_to_upload(staged, excludes)
    _check_size(staged, working_dir, uploaded)
    for key, location in needed.items():
        pattern = os.path.normpath(location)
        if pattern.startswith(".."):
            raise SubmissionError(f"{key}: must be in the uploaded folder, {working_dir}, got {location!r}")
        files = _files_of(staged, pattern, are_prompts=key == "prompts")
        if not files:
            raise SubmissionError(f"{key}: nothing in the uploaded folder, {working_dir}, matches {location!r}")
        if missing := sorted(files - uploaded):
            raise SubmissionError(
                f"{key}: .gitignore, .rayignore or `excludes` leaves {len(missing):,} of {len(files):,} files out of "
                f"the upload, such as {missing[0]}; make an exception there (!{missing[0]}), or name another folder "
                "with --working-dir"
            )


def _check_size(staged: Path, working_dir: Path, uploaded: Iterable[str]) -> None:
    """Refuse a folder that is too large before Ray packs it, which takes as much memory and disk."""
    sizes = {name: (staged / name).stat().st_size for name in uploaded}
    num_bytes, limit = sum(sizes.values()), most_bytes()
    if num_bytes > limit:
        largest = max(sizes, key=lambda name: sizes[name])
        raise SubmissionError(
            f"--working-dir: {working_dir} has {num_bytes / 2**20:,.0f} MiB in {len(sizes):,} files to upload, and a "
            f"job server takes {limit / 2**20:,.0f} MiB; the largest is {one_line(largest)} with "
            f"{sizes[largest] / 2**20:,.0f} MiB; {SMALLER}"
        )


def _files_of(folder: Path, pattern: str, *, are_prompts: bool) -> set[str]:
    """The files, relative to `folder`, that a relative path or glob means; of a folder, its prompts."""
    is_there = (folder / pattern).exists()  # then it is taken literally
    places = [folder / pattern] if is_there else [Path(path) for path in glob(str(folder / pattern), recursive=True)]
    files, below = [place for place in places if place.is_file()], []
    for place in places if is_there else []:
        for parent, _, names in os.walk(place, followlinks=True):
            below += [str(Path(parent) / name) for name in names if name[0] not in "._"]
    files += map(Path, prompts_among(below) if are_prompts else below)
    return {str(file.relative_to(folder)) for file in files}


def entrypoint(working_dir: Path, job_file: Path, options: Sequence[str]) -> str:
    """The command that runs the job in the uploaded folder."""
    program = PROGRAM[0] if _holds_the_program(working_dir) else f"{JOB_FOLDER}/{PROGRAM[0]}"
    return shlex.join(["python", "-P", program, "render", f"{JOB_FOLDER}/{job_file.name}", *options])


def _holds_the_program(working_dir: Path) -> bool:
    """Whether the working directory is a checkout of janus-batch. If so, the job runs that checkout."""
    return all((working_dir / name).exists() for name in PROGRAM)
