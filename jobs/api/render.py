"""`janus_batch.render`: run a job from a Python program to its end, and open its output."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from actors.errors import InputError, JobFailure, shown
from jobs.api.arguments import flag_of, path_of, text_of
from jobs.api.given import given_prompts
from jobs.api.job import job_of
from jobs.api.output import Output, open_folder
from jobs.api.show import showing
from jobs.api.words import in_python
from jobs.render import run_spec
from jobs.terminal.last_word import all_is_said
from workflows.dispatch.embedded.guest import guest_cluster
from workflows.output.acceptance import RejectionLimit, read_rejection_limit
from workflows.output.given_prompts import given_prompts_location
from workflows.storage.lease import WhenHeld
from workflows.storage.path import absolute_location

ADVICE = "call render() again with the same arguments to resume; committed images are kept"


def render(
    prompts: Any,
    *,
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    address: str | None,
    when_held: WhenHeld,
    max_rejected: int | str | None,
    allow_empty: bool,
    progress: bool,
    keys: dict[str, Any],
) -> Output:
    """The output of the job. `janus_batch.render` documents the arguments.

    Raises InputError for a job that is refused and JobFailure for one that fails, with the sentences of the command
    line, and KeyboardInterrupt after a Ctrl-C.
    """
    flag_of(allow_empty, "allow_empty")
    flag_of(progress, "progress")
    if address is not None:
        text_of(address, "address", "HOST:PORT of a head node or auto")
    if when_held not in ("refuse", "wait", "ignore"):
        raise InputError(f"when_held: must be refuse, wait or ignore, got {shown(when_held)}")
    limit, output = _limit(max_rejected), path_of(output, "output")
    try:
        given = given_prompts(prompts)
        is_table = isinstance(given, pa.Table)
        location = given_prompts_location(absolute_location(output, "output")) if is_table else given
        spec = job_of(location, checkpoint, output, keys)
        with guest_cluster(address) as cluster, showing(spec.name or "", spec.output, has_progress=progress) as show:
            run_spec(
                spec,
                cluster,
                show,
                prompts=given if is_table else None,
                when_held=when_held,
                on_interrupt="drain",
                max_rejected=limit,
                allow_empty=allow_empty,
            )
    except (InputError, JobFailure) as error:
        all_is_said()  # by raising it: the program decides what is printed
        error.args = (in_python(str(error)),)
        if isinstance(error, JobFailure):
            error.add_note(ADVICE if error.advice == JobFailure.advice else in_python(error.advice))
        raise
    return open_folder(spec.output, spec.storage)


def _limit(max_rejected: int | str | None) -> RejectionLimit | None:
    try:
        return None if max_rejected is None else read_rejection_limit(str(max_rejected))
    except ValueError as error:
        raise InputError(f"max_rejected: {error}, got {shown(max_rejected)}") from error
