"""A job without a job file: its prompts, checkpoint and output come from the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from actors.errors import is_unicode, one_line
from jobs.job_file.looking import MANIFEST_FOLDER
from jobs.job_file.read import check_fields
from jobs.job_file.spec import MAX_NAME_LENGTH, JobSpec
from workflows.output.given_prompts import given_prompts_location
from workflows.storage.path import JOB_FILE, absolute_location
from workflows.storage.store import Storage

EXAMPLE = 'janus-batch render --prompt "a red circle" --checkpoint janus-shapes --output out'


def one_line_spec(
    job_files: Sequence[str],
    settings: Sequence[str],
    *,
    prompts: Sequence[str],
    prompts_path: str | None,
    checkpoint: str | None,
    output: str | None,
) -> JobSpec:
    """The job that the options describe, with `--set` settings laid over it. It is named after the output folder.

    Raises UsageError for a wrong combination of options, JobFileError and LocationError.
    """
    if job_files:
        name = one_line(job_files[0])
        advice = "" if os.path.exists(job_files[0]) else f": there is no file {name}, and a prompt follows --prompt"
        raise click.UsageError(
            f"give either job files or --prompt, --prompts, --checkpoint and --output, not both{advice}"
        )
    if bool(prompts) == (prompts_path is not None):
        raise click.UsageError(f"give JOB.yaml, or --prompt, or --prompts PATH, and one of them only: {EXAMPLE}")
    if checkpoint is None or output is None:
        missing = "--checkpoint NAME" if checkpoint is None else "--output FOLDER"
        raise click.UsageError(f"a job without a job file needs {missing}: {EXAMPLE}")
    _check_texts(prompts)
    location = absolute_location(output, "--output")
    spec = check_fields(
        {
            "name": location.rpartition("/")[2][:MAX_NAME_LENGTH] or "render",
            "prompts": given_prompts_location(location) if prompts_path is None else prompts_path,
            "output": location,
            "model": {"checkpoint": checkpoint},
        },
        settings,
    )
    if spec.output != location or (prompts and spec.prompts != given_prompts_location(location)):
        raise click.UsageError("--set changes neither prompts nor output here; use --prompt, --prompts and --output")
    return spec


def caption_spec(
    source: str,
    settings: Sequence[str],
    *,
    checkpoint: str,
    output: str,
    question: str | None,
    is_scored: bool,
) -> JobSpec:
    """The job that looks at the images of Parquet files, or of an output, with `--set` settings laid over it.

    Raises JobFileError and LocationError.
    """
    location, images = absolute_location(output, "--output"), absolute_location(source, "IMAGES")
    columns = {}
    if Storage(images).exists(JOB_FILE):
        images, columns = f"{images}/{MANIFEST_FOLDER}", {"id": "image_id"}
    understand = {"score": is_scored} | ({} if question is None else {"question": question})
    return check_fields(
        {
            "name": location.rpartition("/")[2][:MAX_NAME_LENGTH] or "caption",
            "task": "understand",
            "prompts": images,
            "columns": columns,
            "output": location,
            "model": {"checkpoint": checkpoint},
            "understand": understand,
        },
        settings,
    )


def _check_texts(prompts: Sequence[str]) -> None:
    """Refuse texts that no row can hold, before anything is written."""
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise click.UsageError(f"--prompt: a prompt must not be empty, number {number} is")
        if not is_unicode(prompt):
            raise click.UsageError(f"--prompt: a prompt must be UTF-8 text, number {number} is not")
