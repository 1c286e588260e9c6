"""`janus-batch retry-rejected`: render the rejected rows of an output again in place, with the same ids and seeds."""

from __future__ import annotations

from typing import Any

from jobs.job_file.resolve import ignored_columns, resolve
from jobs.job_file.spec import JobSpec, check_fields
from jobs.render import check_gpus, say_where_ray_is, settle, write_page
from jobs.terminal.text import counted
from jobs.terminal.view import say, watch
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.claim import SUCCESS_FILE, Claim, check_claim, open_output
from workflows.output.manifest import committed_parts, rejected_files, remove_superseded
from workflows.output.tally import tally_output
from workflows.plan import RetryPlan, make_plan
from workflows.prompts import find_prompt_files
from workflows.retry_rejected import plan_retries
from workflows.storage.errors import storage_errors
from workflows.storage.lease import hold_output
from workflows.storage.store import Storage


def retry_rejected(output: str, endpoint_url: str | None, settings: tuple[str, ...], *, address: str | None) -> int:
    """0 if every rejected row was tried again, whatever came of it; 1 if the prompt file of some is gone."""
    from workflows.dispatch import pool

    storage, claim = open_output(output, endpoint_url)
    spec = _spec_of(claim, storage, settings)
    num_gpus = pool.count_gpus(address) if spec.workers.gpus_per_actor is None else 0
    job = resolve(spec, num_gpus=num_gpus)
    check_gpus(job, address)
    check_claim(job)
    files = find_prompt_files(job.prompts, job.storage, ignored_columns=ignored_columns(job.recipe.family))
    with storage_errors(output):
        parts = committed_parts(storage)
        make_plan(files, parts, claim.shard_rows)  # refuses a prompt file that was changed
        plan = plan_retries(storage, files, parts)
        num_gone = len(rejected_files(storage, parts)) - plan.num_shards_remaining
        num_before = tally_output(storage.url, storage.options).num_rejected
    what = f"{counted(num_before, 'rejected image')} in {counted(plan.num_shards_remaining, 'shard')}"
    say(f"{job.name}: {what} to try again" if num_before else f"{job.name}: no image is rejected, nothing to do")
    if num_gone:
        say(f"note: the prompt files of {num_gone:,} more shards are no longer there")
    if plan.num_shards_remaining:
        with hold_output(storage, job.name, say=say):
            _render(job, plan, address)
            _settle(job, storage, num_before)
    return 1 if num_gone else 0


def _spec_of(claim: Claim, storage: Storage, settings: tuple[str, ...]) -> JobSpec:
    """The job file that the output was begun with, its places and its model as they were settled then."""
    wish, recipe = claim.job_file, claim.recipe
    model = {
        "checkpoint": recipe.checkpoint,
        "revision": recipe.revision,
        "dtype": recipe.dtype,
        "vae": wish.get("model", {}).get("vae") and recipe.vae,
        "vae_revision": recipe.vae_revision,
    }
    fields: dict[str, Any] = {
        **wish,
        "prompts": claim.prompts,
        "output": storage.url,
        "storage": storage.options,
        "model": {**wish.get("model", {}), **model},
    }
    return check_fields(fields, settings)


def _render(job: RenderJob, plan: RetryPlan, address: str | None) -> None:
    from workflows.dispatch import pool
    from workflows.dispatch.loop import render_shards

    say_where_ray_is(address)
    pool.start_ray(address)
    progress = Progress(
        name=job.name,
        num_images_total=sum(shard.num_images(job.recipe.images_per_row) for shard in plan.shards),
        num_shards_total=plan.num_shards_remaining,
    )
    with watch(progress):
        render_shards(job, plan, progress)


def _settle(job: RenderJob, storage: Storage, num_before: int) -> None:
    """Take away what the retries stand for now, and count again."""
    with storage_errors(storage.url):
        remove_superseded(storage)
        is_finished = storage.exists(SUCCESS_FILE)
    tally = settle(job, is_finished=is_finished)
    say(f"done: {num_before - tally.num_rejected:,} images made that were rejected, {tally.num_rejected:,} still are")
    write_page(job)
