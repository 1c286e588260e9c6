"""`janus-batch render`: run a job to its end, on this machine or on the cluster that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from janus_batch import finish_despite_signals
from jobs.job_file.resolve import resolve
from jobs.job_file.spec import JobSpec
from jobs.terminal.on_done import notifying
from jobs.terminal.show import showing
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import OnInterrupt
from workflows.output.acceptance import RejectionLimit, check_accepted
from workflows.output.given_prompts import prompt_table, store_prompts
from workflows.run import Show, run_job
from workflows.storage.lease import WhenHeld
from workflows.storage.path import absolute_location
from workflows.storage.retry import wait_for_storage


def render(
    spec: JobSpec,
    *,
    prompts: Sequence[str] = (),
    address: str | None = None,
    when_held: WhenHeld = "refuse",
    as_json: bool = False,
    is_quiet: bool = False,
    opens_report: bool = False,
    max_rejected: RejectionLimit | None = None,
    allow_empty: bool = False,
    is_last: bool = False,
) -> int:
    """Run the job; the exit code is always 0, because failures are raised.

    `as_json`: progress as JSON lines. `is_quiet`: the result alone. `opens_report`: show the report in a browser as
    soon as it is there.

    `prompts` are texts from the command line, which are stored in the output first. `max_rejected` and `allow_empty`
    decide whether the finished output is accepted.

    `is_last`: no other job follows. Then, once the result is shown, a signal no longer changes how the program ends.
    """
    name, output = spec.name or "render", absolute_location(spec.output)
    on_result = finish_despite_signals if is_last else None
    how: dict[str, Any] = {"as_json": as_json, "is_quiet": is_quiet, "opens_report": opens_report}
    with showing(name, output, **how, on_done=spec.on_done, on_result=on_result) as show:
        run_spec(
            spec,
            Cluster(address),
            show,
            prompts=prompt_table(prompts) if prompts else None,
            when_held=when_held,
            max_rejected=max_rejected,
            allow_empty=allow_empty,
        )
    return 0


def run_spec(
    spec: JobSpec,
    cluster: Cluster,
    show: Show,
    *,
    prompts: pa.Table | None = None,
    when_held: WhenHeld = "refuse",
    on_interrupt: OnInterrupt = "stop",
    max_rejected: RejectionLimit | None = None,
    allow_empty: bool = False,
) -> None:
    """Resolve a job, run it and accept its output, and notify `on_done`. `prompts` are rows to store in the output."""
    with notifying(spec.on_done, spec.name or "render", absolute_location(spec.output), show) as show:
        num_gpus = cluster.num_gpus() if spec.workers.gpus_per_actor is None else 0
        seconds = spec.workers.storage_retry_seconds
        job = wait_for_storage(spec.model.checkpoint, seconds, show.line, resolve, spec, num_gpus=num_gpus)
        if prompts is not None:
            wait_for_storage(job.output, seconds, show.line, store_prompts, job, prompts)
        tally = run_job(job, spec.model_dump(), cluster, show, when_held=when_held, on_interrupt=on_interrupt)
        check_accepted(job.output, tally, limit=max_rejected, allow_empty=allow_empty)
