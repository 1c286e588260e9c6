"""The main path of the program: claim the output, hold it, plan, render what is missing, check, count, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from actors.errors import InputError
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import render_shards
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.claim import JOB_FILE, SUCCESS_FILE, check_claim, claim_output, mark_success, restore_claim
from workflows.output.manifest import remove_superseded
from workflows.output.remaining import find_job_prompts, plan_job
from workflows.output.repairs import settle_repairs
from workflows.output.tally import Tally, tally_output
from workflows.plan import Plan, RetryPlan
from workflows.prompts import PromptFile
from workflows.report.write import write_report
from workflows.retry_rejected import plan_retries
from workflows.storage.errors import StorageFailure, storage_errors, storage_failures
from workflows.storage.lease import OutputRemovedError, WhenHeld, hold_output
from workflows.storage.retry import retry_storage
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run: what the output holds now, and what this run added. `report` is None if it was not written."""

    job: RenderJob
    tally: Tally
    progress: Progress
    seconds: float
    report: str | None


class Show(Protocol):
    """What a run tells whoever started it; `jobs.terminal` implements it for terminals, logs and programs."""

    def line(self, text: str) -> None:
        """A remark for people."""

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        """The work ahead, before it costs anything."""

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        """Show the progress while the block runs."""

    def result(self, result: Result) -> None:
        """The end of a run that succeeded."""


def run_job(
    job: RenderJob, job_file: dict[str, Any], cluster: Cluster, show: Show, *, when_held: WhenHeld = "refuse"
) -> Tally:
    """Render a job to its end; what its output holds then.

    Raises InputError for a job that is refused, and JobFailure for one that fails.
    """
    started_at = time.monotonic()
    cluster.check_gpus(job)
    files = find_job_prompts(job)
    is_resumed = claim_output(job, job_file)
    with _restoring_claim(job, job_file), _holding_output(job, show, when_held) as has_waited:
        if has_waited:
            files = find_job_prompts(job)
        with storage_failures(job.output):
            plan = plan_job(job, files)
            settle_repairs(Storage(job.output, job.storage), plan.repairs)
        show.plan(job, plan, is_resumed=is_resumed or has_waited)
        progress = _render_plan(job, plan, cluster, show)
        _check_nothing_is_missing(job, files)
        if plan.repairs:
            _remove_superseded(job)
        tally = _count_images(job, is_finished=True)
        report = _write_report(job, show)
        seconds = time.monotonic() - started_at
        show.result(Result(job=job, tally=tally, progress=progress, seconds=seconds, report=report))
        return tally


def run_retries(job: RenderJob, cluster: Cluster, show: Show) -> bool:
    """Retry the rejected images of an output, in place; False if the prompt files of some are gone."""
    cluster.check_gpus(job)
    check_claim(job)
    files = find_job_prompts(job)
    repairs = plan_job(job, files).repairs  # raises SourceChangedError for a prompt file that was changed
    with storage_errors(job.output):
        plan, num_gone = plan_retries(Storage(job.output, job.storage), files)
        num_before = tally_output(job.output, job.storage).num_rejected
    show.line(
        f"{job.name}: images rejected: {num_before:,}, shards to retry: {plan.num_shards_remaining:,}"
        if num_before
        else f"{job.name}: no rejected images, nothing to retry"
    )
    if num_gone:
        show.line(f"note: shards that cannot be retried, because their prompt file is gone: {num_gone:,}")
    if plan.num_shards_remaining:
        with _holding_output(job, show):
            settle_repairs(Storage(job.output, job.storage), repairs)
            _render_plan(job, plan, cluster, show)
            num_after = _settle_retries(job).num_rejected
            show.line(f"done: {num_before - num_after:,} rendered, {num_after:,} still rejected")
            if report := _write_report(job, show):
                show.line(f"report    {report}")
    return not num_gone


# ---- the steps -------------------------------------------------------------------------------------------------------


def _holding_output(job: RenderJob, show: Show, when_held: WhenHeld = "refuse") -> AbstractContextManager[bool]:
    return hold_output(Storage(job.output, job.storage), job.name, when_held=when_held, say=show.line)


@contextmanager
def _restoring_claim(job: RenderJob, job_file: dict[str, Any]) -> Iterator[None]:
    """If the output is removed while the run holds it, write its claim again so that the next run can resume it."""
    try:
        yield
    except OutputRemovedError:
        restore_claim(job, job_file)
        raise


def _render_plan(job: RenderJob, plan: Plan | RetryPlan, cluster: Cluster, show: Show) -> Progress:
    """Render the remaining shards. If there are none, Ray is not started."""
    if not plan.num_shards_remaining:
        return Progress(name=job.name)
    show.line("joining the cluster ..." if cluster.is_joined else "starting Ray ...")
    cluster.start()
    progress = Progress(
        name=job.name,
        num_images_total=plan.num_images(job.recipe.images_per_row),
        num_images_before=plan.num_images_committed(job.recipe.images_per_row),
        num_shards_total=plan.num_shards_remaining,
    )
    with show.progress(progress):
        render_shards(job, plan, cluster, progress)
    return progress


def _check_nothing_is_missing(job: RenderJob, files: list[PromptFile]) -> None:
    """Raise OutputRemovedError if committed files have disappeared; retries storage like the shards do."""
    with storage_failures(job.output):
        plan = retry_storage(job.workers.storage_retry_seconds, plan_job, job, files)
        if plan.num_shards_remaining or not Storage(job.output, job.storage).exists(JOB_FILE):
            raise OutputRemovedError(job.output)


def _count_images(job: RenderJob, *, is_finished: bool) -> Tally:
    """Count what the output holds, and mark it as finished; retries storage like the shards do."""
    seconds = job.workers.storage_retry_seconds
    with storage_failures(job.output):
        tally = retry_storage(seconds, tally_output, job.output, job.storage)
        if is_finished:
            retry_storage(seconds, mark_success, job, tally.num_images, tally.num_rejected)
    return tally


def _remove_superseded(job: RenderJob) -> None:
    """Remove the rejected rows that this run's repairs replace."""
    with storage_failures(job.output):
        remove_superseded(Storage(job.output, job.storage))


def _settle_retries(job: RenderJob) -> Tally:
    """Remove the rejected rows that the retries replace, and count again."""
    storage = Storage(job.output, job.storage)
    with storage_errors(job.output):
        remove_superseded(storage)
        is_finished = storage.exists(SUCCESS_FILE)
    return _count_images(job, is_finished=is_finished)


def _write_report(job: RenderJob, show: Show) -> str | None:
    """Write report.html; the URL, or None if that fails. A finished job does not fail for want of its report."""
    show.line("writing the report ...")
    try:
        return write_report(Storage(job.output, job.storage)).url
    except (InputError, StorageFailure) as error:
        show.line(f"note: the report was not written: {error}")
        return None
