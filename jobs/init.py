"""`janus-batch init`: write a job file for this machine, and example prompts next to it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from actors.errors import one_line
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from jobs.job_file.template import commented_yaml

DEFAULT_NAME, PROMPTS_NAME = "job.yaml", "prompts.txt"  # to be changed in an editor

# What a machine without a GPU renders in seconds, and what a GPU is for.
ON_CPUS = (
    "janus-shapes",
    ["a large red circle in the center on a white background", "a small blue square at the top on a yellow background"],
)
ON_GPUS = ("deepseek-ai/Janus-Pro-1B", ["a lighthouse at dusk", "two cats on a sofa"])


def init(path: str, *, num_gpus: int) -> int:
    """Write the job file, and the prompts unless there are some. Raises JobFileError rather than overwrite a file."""
    job_file = Path(path, DEFAULT_NAME) if os.path.isdir(path) else Path(path)
    checkpoint, examples = ON_GPUS if num_gpus else ON_CPUS
    prompts = job_file.parent / PROMPTS_NAME
    fields = _fields(job_file, prompts, checkpoint, num_gpus)
    check_fields(fields)
    _create(job_file, commented_yaml(fields, _head(job_file, num_gpus)).encode())
    click.echo(f"wrote {job_file}")
    if os.path.lexists(prompts):
        click.echo(f"found {prompts}, which the job reads")
    else:
        _create(prompts, "".join(f"{line}\n" for line in examples).encode())
        click.echo(f"wrote {prompts} ({len(examples)} example prompts, one a line)")
    click.echo(f"next: janus-batch render {shlex.quote(str(job_file))}")
    return 0


def _fields(job_file: Path, prompts: Path, checkpoint: str, num_gpus: int) -> dict[str, Any]:
    return {
        "name": job_file.stem,
        "prompts": str(prompts),
        "output": str(job_file.parent / "renders" / job_file.stem),
        "model": {"checkpoint": checkpoint},
        "sampling": {"cfg_weight": 5, "images_per_prompt": 4, "seed": 0},
        "workers": {"gpus_per_actor": 1 if num_gpus else 0},
    }


def _head(job_file: Path, num_gpus: int) -> str:
    machine = f"GPUs: {num_gpus}" if num_gpus else "no GPU"
    name = shlex.quote(str(job_file))
    return (
        f"A job for janus-batch. `janus-batch init` wrote it for this machine ({machine}).\n\n"
        f"  janus-batch plan {name}     estimates the job and writes nothing\n"
        f"  janus-batch render {name}   runs it; the same command resumes it after an interruption\n\n"
        "Relative paths refer to the folder in which you run these commands. docs/job-file.md lists every key."
    )


def _create(path: Path, data: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise JobFileError(f"{one_line(str(path))} exists, and init overwrites no file; name another one") from error
    except OSError as error:
        raise JobFileError(f"{one_line(str(path))} cannot be written: {error.strerror or error}") from error
