"""`janus-batch render`: run a job to its end, here or on the cluster this machine belongs to."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext

from actors.errors import InputError
from jobs.job_file.resolve import ignored_columns, remarks, resolve
from jobs.job_file.spec import JobFileError, JobSpec
from jobs.terminal.json_lines import failure_as_json, print_json
from jobs.terminal.text import counted
from jobs.terminal.view import say, watch
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.claim import JOB_FILE, claim_output, claimed_shard_rows, mark_success, restore_claim
from workflows.output.manifest import committed_parts
from workflows.output.tally import Tally, tally_output
from workflows.plan import Plan, make_plan
from workflows.prompts import PromptFile, find_prompt_files
from workflows.report.write import write_report
from workflows.storage.errors import StorageFailure, storage_errors, storage_failures
from workflows.storage.lease import OutputRemovedError, WhenHeld, hold_output
from workflows.storage.retry import retry_storage
from workflows.storage.store import Storage, absolute_location


def render(spec: JobSpec, *, address: str | None, when_held: WhenHeld = "refuse", as_json: bool = False) -> int:
    """Plan, claim the output, render what is missing, mark success; the exit code. Errors of the job are raised.

    With `as_json`, standard output gets the progress as JSON lines, and a last one with the sums or the reason of the
    failure.
    """
    name, output = spec.name or "render", absolute_location(spec.output)
    with failure_as_json(name, output) if as_json else nullcontext():
        return _render(spec, address, when_held, as_json=as_json)


def _render(spec: JobSpec, address: str | None, when_held: WhenHeld, *, as_json: bool) -> int:
    from workflows.dispatch import pool

    started_at = time.monotonic()
    num_gpus = pool.count_gpus(address) if spec.workers.gpus_per_actor is None else 0
    job = resolve(spec, num_gpus=num_gpus)
    check_gpus(job, address)
    files = find_prompt_files(job.prompts, job.storage, ignored_columns=ignored_columns(job.recipe.family))
    is_resumed = claim_output(job, spec.model_dump())
    try:
        with hold_output(Storage(job.output, job.storage), job.name, when_held=when_held, say=say) as was_waited:
            if was_waited:
                files = find_prompt_files(job.prompts, job.storage, ignored_columns=ignored_columns(job.recipe.family))
            return _render_held(
                job, files, address, is_resumed=is_resumed or was_waited, started_at=started_at, as_json=as_json
            )
    except OutputRemovedError:
        restore_claim(job, spec.model_dump())
        raise


def _render_held(
    job: RenderJob, files: list[PromptFile], address: str | None, *, is_resumed: bool, started_at: float, as_json: bool
) -> int:
    """Render what is missing in an output that is this run's alone."""
    from workflows.dispatch import pool

    with storage_failures(job.output):
        plan = plan_remaining(job, files)
    introduce(job, plan, is_resumed=is_resumed)
    progress = Progress()
    if plan.num_shards_remaining:
        from workflows.dispatch.loop import render_shards

        say_where_ray_is(address)
        pool.start_ray(address)
        progress = _progress_of(job, plan)
        with watch(progress, as_json=as_json):
            render_shards(job, plan, progress)
    _check_that_all_is_there(job, files)
    tally = settle(job, is_finished=True)
    _summarize(job, tally, progress, time.monotonic() - started_at)
    write_page(job)
    if as_json:
        print_json({"event": "done", "job": job.name, "output": job.output, **_sums(tally, progress, started_at)})
    return 0


def _sums(tally: Tally, progress: Progress, started_at: float) -> dict[str, object]:
    """What the output holds now, and what this run added to it."""
    return {
        "num_images": tally.num_images,
        "num_rejected": tally.num_rejected,
        "num_shards": tally.num_shards,
        "seconds": round(time.monotonic() - started_at, 1),
        "this_run": {
            "num_images": progress.num_images,
            "num_bytes": progress.num_bytes,
            "num_retries": progress.num_retries,
            "num_actors_lost": progress.num_painters_lost,
            "images_per_second": round(progress.images_per_second, 4),
        },
    }


def say_where_ray_is(address: str | None) -> None:
    """Either takes seconds; on a cluster, nothing is started."""
    say("joining the cluster ..." if _joins_cluster(address) else "starting Ray ...")


def check_gpus(job: RenderJob, address: str | None) -> None:
    """Refuse to wait for GPUs that this machine does not have; a cluster may still get them."""
    from workflows.dispatch import pool

    if _joins_cluster(address):
        return
    wanted, found = job.workers.gpus_per_actor, pool.count_gpus(None)
    if wanted > found:
        raise JobFileError(
            f"workers.gpus_per_actor: this machine has {found} GPUs, got {wanted:g}; 0 renders on CPUs, and --address "
            "joins a cluster"
        )


def _joins_cluster(address: str | None) -> bool:
    return bool(address or os.environ.get("RAY_ADDRESS"))


def plan_remaining(job: RenderJob, files: list[PromptFile]) -> Plan:
    """The plan of what is not committed yet in the job's output."""
    storage = Storage(job.output, job.storage)
    with storage_errors(job.output):
        return make_plan(files, committed_parts(storage), claimed_shard_rows(storage, job))


def _check_that_all_is_there(job: RenderJob, files: list[PromptFile]) -> None:
    """Raise OutputRemovedError if what was committed is there no more; waits for storage as the shards do."""
    with storage_failures(job.output):
        plan = retry_storage(job.workers.storage_retry_seconds, plan_remaining, job, files)
        if plan.num_shards_remaining or not Storage(job.output, job.storage).exists(JOB_FILE):
            raise OutputRemovedError(job.output)


def introduce(job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
    """Say what is about to be made, before anything costs money."""
    recipe = job.recipe
    weights = ", ".join(f"{weight:g}" for weight in recipe.cfg_weights)
    per_row = recipe.images_per_row
    say(f"{job.name}: {recipe.checkpoint} ({recipe.family}, {recipe.dtype}), cfg_weight {weights}, seed {recipe.seed}")
    say(
        f"{counted(plan.num_rows, 'prompt')} in {counted(len(plan.files), 'file')} x {per_row} "
        f"= {counted(plan.num_rows * per_row, 'image')} -> {job.output}"
    )
    for line in remarks(job):
        say(f"note: {line}")
    if plan.shard_rows != job.shard_rows:
        say(f"note: shard_rows stays {plan.shard_rows:,}, with which this output was begun")
    if is_resumed:
        done, left = counted(plan.num_rows_committed, "prompt"), counted(plan.num_shards_remaining, "shard")
        say(f"resuming: {done} done, {left} left")


def settle(job: RenderJob, *, is_finished: bool) -> Tally:
    """Count what is there and mark a finished output; waits for storage as the shards do."""
    seconds = job.workers.storage_retry_seconds
    with storage_failures(job.output):
        tally = retry_storage(seconds, tally_output, job.output, job.storage)
        if is_finished:
            retry_storage(seconds, mark_success, job, tally.num_images, tally.num_rejected)
    return tally


def write_page(job: RenderJob) -> None:
    """Write report.html and say where. A page that cannot be written takes nothing from a finished job."""
    say("writing the report ...")
    try:
        say(f"report    {write_report(Storage(job.output, job.storage)).url}")
    except (InputError, StorageFailure) as error:
        say(f"note: the report was not written: {error}")


def _progress_of(job: RenderJob, plan: Plan) -> Progress:
    per_row = job.recipe.images_per_row
    return Progress(
        name=job.name,
        num_images_total=plan.num_rows * per_row,
        num_images_before=plan.num_rows_committed * per_row,
        num_shards_total=plan.num_shards_remaining,
    )


def _summarize(job: RenderJob, tally: Tally, progress: Progress, seconds: float) -> None:
    say(f"done: {counted(tally.num_images, 'image')}, {tally.num_rejected:,} rejected, in {seconds:.0f} s")
    if progress.num_images:
        say(f"      {progress.num_images:,} of them in this run, {progress.images_per_second:.2f} images/s")
    say(f"images    {job.output}/images")
    say(f"manifest  {job.output}/manifest   (one row per image: prompt, seed, weight, model, hash)")
    if tally.num_rejected:
        say(f"rejected  {job.output}/rejected   (each with its reason)")
