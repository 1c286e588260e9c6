"""The folder that `janus-batch submit` uploads: the working directory, the program and the job file.

It is staged as symbolic links, which Ray follows when it packs the folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from janus_batch import ROOT
from jobs.job_server import SubmissionError

PROGRAM = ("janus_batch.py", "actors", "workflows", "jobs")
JOB_FOLDER = "submitted-job"  # of the job file, and of the program where the working directory is not its own

# At the top of a working directory: what a job on a cluster does not need. Ray leaves out what .gitignore names, too.
LEFT_OUT = {".git", ".github", ".ci", ".venv", "benchmarks", "build", "deploy", "dist", "docs", "renders", "tests"}


def default_working_dir() -> Path:
    """The checkout that this program runs from. Raises SubmissionError for an installed program: nothing to upload."""
    if not (Path(ROOT) / "pyproject.toml").is_file():
        raise SubmissionError(f"{ROOT} is no project folder; name the folder to upload with --working-dir")
    return Path(ROOT)


def stage(staged: Path, working_dir: Path, job_file: Path) -> None:
    """Fill `staged`, an empty folder, with what is uploaded. Raises SubmissionError."""
    if not working_dir.is_dir():
        raise SubmissionError(f"--working-dir: {working_dir} is no folder")
    if (working_dir / JOB_FOLDER).exists():
        raise SubmissionError(f"--working-dir: janus-batch puts the job into {working_dir / JOB_FOLDER}; rename yours")
    for entry in working_dir.resolve().iterdir():
        if entry.name not in LEFT_OUT:
            (staged / entry.name).symlink_to(entry)
    (staged / JOB_FOLDER).mkdir()
    (staged / JOB_FOLDER / job_file.name).write_bytes(job_file.read_bytes())
    if not _holds_the_program(working_dir):
        for name in PROGRAM:
            (staged / JOB_FOLDER / name).symlink_to(Path(ROOT) / name)
        (staged / JOB_FOLDER / ".gitignore").write_text("__pycache__/\n")


def entrypoint(working_dir: Path, job_file: Path, options: Sequence[str]) -> str:
    """The command that runs the job in the uploaded folder."""
    program = PROGRAM[0] if _holds_the_program(working_dir) else f"{JOB_FOLDER}/{PROGRAM[0]}"
    return shlex.join(["python", "-P", program, "render", f"{JOB_FOLDER}/{job_file.name}", *options])


def _holds_the_program(working_dir: Path) -> bool:
    """Whether this is a checkout of janus-batch, whose program then runs, as its owner has changed it."""
    return all((working_dir / name).exists() for name in PROGRAM)
