"""The main path of the program: claim the output, hold it, plan, render what is missing, check, count, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import OnInterrupt, render_shards
from workflows.dispatch.phases import Phase, Phases
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.acceptance import check_any_image, top_reasons
from workflows.output.claim import check_claim, claim_output, mark_success, restore_claim
from workflows.output.manifest import remove_superseded
from workflows.output.remaining import check_ids, find_job_prompts, plan_job
from workflows.output.removal import (
    REMOVED_FILE,
    Inventory,
    is_missing_files,
    mark_removal,
    shards_without_files,
    take_inventory,
)
from workflows.output.repairs import settle_repairs
from workflows.output.tally import Tally, tally_output
from workflows.plan import Plan, RetryPlan
from workflows.prompts import PromptFile, keep_prompt_files
from workflows.report.live import refreshing_report
from workflows.report.write import write_report
from workflows.retry_rejected import plan_retries
from workflows.scores.parts import take_back
from workflows.side_work import side_work
from workflows.storage.errors import storage_errors, storage_failures
from workflows.storage.lease import OutputEmptiedError, OutputRemovedError, WhenHeld, hold_output
from workflows.storage.path import JOB_FILE
from workflows.storage.retry import retry_storage, wait_for_storage
from workflows.storage.store import Storage

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run: what the output holds now, and what this run added. `report` is None if it was not written."""

    job: RenderJob
    tally: Tally
    progress: Progress
    seconds: float
    phases: dict[Phase, float]
    report: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """The result of retrying rejected images. `num_rejected` images still are; `num_shards_gone` could not be retried,
    because their prompt file is gone. `report` is None if it was not written."""

    num_rendered: int
    num_rejected: int
    num_shards_gone: int
    report: str | None


class Show(Protocol):
    """What a run tells whoever started it; `jobs.terminal` implements it for terminals, logs and programs."""

    def line(self, text: str) -> None:
        """A remark for people."""

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        """The work ahead, before it costs anything."""

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        """Show the progress while the block runs."""

    def report(self, url: str) -> None:
        """The page of the job is there for the first time, and refreshed from now on."""

    def result(self, result: Result) -> None:
        """The end of a run that succeeded."""


def run_job(
    job: RenderJob,
    job_file: dict[str, Any],
    cluster: Cluster,
    show: Show,
    *,
    when_held: WhenHeld = "refuse",
    on_interrupt: OnInterrupt = "stop",
) -> Tally:
    """Render a job to its end; what its output holds then. `on_interrupt`: what a Ctrl-C does while shards render.

    Raises InputError for a job that is refused, and JobFailure for one that fails.
    """
    started_at, phases = time.monotonic(), Phases()
    cluster.check_gpus(job)
    wait = _Waiting(job, show)
    with phases.timed("planning"):
        files = wait.for_prompts(_find_prompts, job, show.line)
        is_resumed = wait.for_output(claim_output, job, job_file)
    with _noting_removal(job, job_file), _holding_output(job, show, when_held) as has_waited:
        if has_waited:
            files = wait.for_prompts(_find_prompts, job, show.line)
        with storage_failures(job.output), phases.timed("planning"):
            files = wait.for_output(keep_prompt_files, files, job.output, job.storage)
            wait.for_output(_settle_removal, job)
            plan = wait.for_output(plan_job, job, files)
            wait.for_output(settle_repairs, Storage(job.output, job.storage), plan.repairs)
            before = wait.for_output(take_inventory, Storage(job.output, job.storage))
        show.plan(job, plan, is_resumed=is_resumed or has_waited)
        progress = _render_plan(job, plan, cluster, show, phases, on_interrupt)
        with phases.timed("checking"):
            _check_nothing_is_missing(job, files, before)
            if plan.repairs:
                _remove_superseded(job)
            tally = _finish(job)
        with phases.timed("report"):
            report = _write_report(job, show)
        check_any_image(job.output, tally)
        seconds = time.monotonic() - started_at
        with side_work("the result was not shown", show.line):
            show.result(
                Result(job=job, tally=tally, progress=progress, seconds=seconds, phases=phases.seconds, report=report)
            )
        return tally


def run_retries(job: RenderJob, cluster: Cluster, show: Show) -> Retries:
    """Retry the rejected images of an output, in place."""
    cluster.check_gpus(job)
    wait = _Waiting(job, show)
    wait.for_output(check_claim, job)
    files = wait.for_prompts(find_job_prompts, job, show.line)
    files = wait.for_output(keep_prompt_files, files, job.output, job.storage)
    remaining = wait.for_output(plan_job, job, files)  # raises SourceChangedError for a prompt file that was changed
    plan, num_gone = wait.for_output(_plan_retries, job, list(remaining.files))
    before = wait.for_output(tally_output, job.output, job.storage)
    show.line(
        f"{job.name}: images rejected: {before.num_rejected:,}, shards to retry: {plan.num_shards_remaining:,}"
        if before.num_rejected
        else f"{job.name}: no rejected images, nothing to retry"
    )
    if num_gone:
        show.line(f"note: shards that cannot be retried, because their prompt file is gone: {num_gone:,}")
    after, report = before, None
    if plan.num_shards_remaining:
        with _holding_output(job, show):
            wait.for_output(settle_repairs, Storage(job.output, job.storage), remaining.repairs)
            _render_plan(job, plan, cluster, show, Phases())
            after = _settle_retries(job, is_complete=not remaining.num_shards_remaining)
            _show_retries(before, after, show)
            if report := _write_report(job, show):
                show.line(f"report    {report}")
            check_any_image(job.output, after)
    num_rendered = before.num_rejected - after.num_rejected
    return Retries(num_rendered=num_rendered, num_rejected=after.num_rejected, num_shards_gone=num_gone, report=report)


# ---- the steps -------------------------------------------------------------------------------------------------------


class _Waiting:
    """Runs the steps before the first shard. Each waits for a store that is away, within its own budget."""

    def __init__(self, job: RenderJob, show: Show) -> None:
        self._job, self._seconds, self._say = job, job.workers.storage_retry_seconds, show.line

    def for_prompts(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return wait_for_storage(self._job.prompts, self._seconds, self._say, step, *args, **kwargs)

    def for_output(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return wait_for_storage(self._job.output, self._seconds, self._say, step, *args, **kwargs)


def _find_prompts(job: RenderJob, say: Callable[[str], None]) -> list[PromptFile]:
    """The prompt files of a job, with an id of its own for each row that is to be rendered. Raises PromptsError."""
    files = find_job_prompts(job, say)
    check_ids(job, files, say)
    return files


def _holding_output(job: RenderJob, show: Show, when_held: WhenHeld = "refuse") -> AbstractContextManager[bool]:
    storage, seconds = Storage(job.output, job.storage), job.workers.storage_retry_seconds
    return hold_output(storage, job.name, when_held=when_held, say=show.line, retry_seconds=seconds)


@contextmanager
def _noting_removal(job: RenderJob, job_file: dict[str, Any]) -> Iterator[None]:
    """If the output is removed while the run holds it, mark it, and write its claim again so that the next run can
    resume it.
    """
    try:
        yield
    except (OutputRemovedError, OutputEmptiedError):
        _retry(job, mark_removal, Storage(job.output, job.storage))
        _retry(job, restore_claim, job, job_file)
        raise


def _settle_removal(job: RenderJob) -> None:
    """Take back the shards that were committed without all their files, if files were removed during a run."""
    storage = Storage(job.output, job.storage)
    if storage.exists(REMOVED_FILE):
        for parts in shards_without_files(storage, have_images=job.recipe.look is None):
            take_back(storage, parts)
        storage.remove(REMOVED_FILE)


def _render_plan(
    job: RenderJob,
    plan: Plan | RetryPlan,
    cluster: Cluster,
    show: Show,
    phases: Phases,
    on_interrupt: OnInterrupt = "stop",
) -> Progress:
    """Render the remaining shards. If there are none, Ray is not started."""
    if not plan.num_shards_remaining:
        return Progress(name=job.name)
    if not cluster.is_started:
        show.line("joining the cluster ..." if cluster.is_joined else "starting Ray ...")
    with phases.timed("starting Ray"):
        cluster.start()
    progress = Progress(
        name=job.name,
        num_images_total=plan.num_images(job.recipe.images_per_row),
        num_images_before=plan.num_images_committed(job.recipe.images_per_row),
        num_shards_total=plan.num_shards_remaining,
    )
    has_report = job.recipe.look is None  # the report is about images that were rendered
    refreshing = refreshing_report(job, cluster, progress, show.line, show.report) if has_report else nullcontext()
    with show.progress(progress), refreshing:
        render_shards(job, plan, cluster, progress, on_interrupt=on_interrupt)
    _add_phases(phases, progress)
    return progress


def _add_phases(phases: Phases, progress: Progress) -> None:
    """The phases of the dispatch loop, from the moments that its progress has."""
    ended_at = progress.clock()
    ready_at = ended_at if progress.rendering_since is None else progress.rendering_since
    written_at = ready_at if progress.written_at is None else progress.written_at
    phases.add("loading", ready_at - progress.started_at)
    phases.add("rendering", written_at - ready_at)
    phases.add("writing", ended_at - written_at)


def _check_nothing_is_missing(job: RenderJob, files: list[PromptFile], before: Inventory) -> None:
    """Raise OutputRemovedError if committed files have disappeared; retries storage like the shards do."""
    storage = Storage(job.output, job.storage)
    with storage_failures(job.output):
        _retry(job, _settle_removal, job)
        plan = _retry(job, plan_job, job, files)
        if plan.num_shards_remaining or not _retry(job, storage.exists, JOB_FILE):
            raise OutputRemovedError(job.output)
        if _retry(job, is_missing_files, storage, before, have_images=job.recipe.look is None):
            raise OutputRemovedError(job.output)


def _finish(job: RenderJob) -> Tally:
    """Count what the output holds, and mark it as finished if it holds what its prompts asked for."""
    with storage_failures(job.output):
        tally = _retry(job, tally_output, job.output, job.storage)
        if tally.num_images or not tally.num_rejected:
            _retry(job, mark_success, job, tally.num_images, tally.num_rejected)
    return tally


def _remove_superseded(job: RenderJob) -> None:
    """Remove the rejected rows that this run's repairs or retries replace."""
    with storage_failures(job.output):
        _retry(job, remove_superseded, Storage(job.output, job.storage))


def _plan_retries(job: RenderJob, files: list[PromptFile]) -> tuple[RetryPlan, int]:
    with storage_errors(job.output):
        return plan_retries(Storage(job.output, job.storage), files)


def _settle_retries(job: RenderJob, *, is_complete: bool) -> Tally:
    """Remove the rejected rows that the retries replace, and count again. Only a complete output is finished."""
    _remove_superseded(job)
    with storage_failures(job.output):
        return _finish(job) if is_complete else _retry(job, tally_output, job.output, job.storage)


def _show_retries(before: Tally, after: Tally, show: Show) -> None:
    num_rendered = before.num_rejected - after.num_rejected
    show.line(f"done: {num_rendered:,} rendered, {after.num_rejected:,} still rejected")
    for line in top_reasons(after):
        show.line(f"rejected  {line}")


def _write_report(job: RenderJob, show: Show) -> str | None:
    """Write report.html; the URL, or None if that fails. A finished job does not fail for want of its report.

    A job that looks at images has none.
    """
    if job.recipe.look is not None:
        return None
    show.line("writing the report ...")
    with side_work("the report was not written", show.line):
        return write_report(Storage(job.output, job.storage)).url
    return None


def _retry(job: RenderJob, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return retry_storage(job.output, job.workers.storage_retry_seconds, step, *args, **kwargs)
