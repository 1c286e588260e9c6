"""`janus-batch plan`: what a job would render, from footers and listings, before anything costs money."""

from __future__ import annotations

import json

import click

from jobs.render import plan_remaining
from jobs.resolve import ignored_columns, remarks, resolve
from jobs.spec import JobSpec
from workflows.job import RenderJob
from workflows.plan import Plan
from workflows.prompts import find_prompt_files
from workflows.resume import check_claim


def plan(spec: JobSpec, *, as_json: bool) -> int:
    """Print the plan; the exit code is always 0, since what is wrong with a job is raised."""
    job = resolve(spec, num_gpus=0, with_digest=False)
    ignored = ignored_columns(job.recipe.family)
    files = find_prompt_files(job.prompts, job.storage, ignored_columns=ignored)
    check_claim(job, ignore=("recipe.weights_sha256", "recipe.vae_sha256", "recipe.dtype"))
    remaining = plan_remaining(job, files)
    if as_json:
        click.echo(json.dumps(_facts(job, remaining)))
    else:
        _print_table(job, remaining)
    return 0


def _facts(job: RenderJob, plan: Plan) -> dict[str, object]:
    recipe = job.recipe
    images_per_row = recipe.images_per_row
    return {
        "name": job.name,
        "family": recipe.family,
        "checkpoint": recipe.checkpoint,
        "revision": recipe.revision,
        "cfg_weight": list(recipe.cfg_weights),
        "num_files": len(plan.files),
        "num_bytes_of_prompts": sum(file.num_bytes for file in plan.files),
        "num_rows": plan.num_rows,
        "num_rows_committed": plan.num_rows_committed,
        "num_shards_remaining": plan.num_shards_remaining,
        "images_per_row": images_per_row,
        "num_images": plan.num_rows * images_per_row,
        "num_images_remaining": (plan.num_rows - plan.num_rows_committed) * images_per_row,
    }


def _print_table(job: RenderJob, plan: Plan) -> None:
    facts = _facts(job, plan)
    weights = ", ".join(f"{weight:g}" for weight in job.recipe.cfg_weights)
    rows = {
        "job": job.name,
        "model": f"{job.recipe.checkpoint} ({job.recipe.family})"
        + (f" @ {job.recipe.revision}" * bool(job.recipe.revision)),
        "cfg_weight": weights,
        "prompt files": f"{facts['num_files']:,} ({facts['num_bytes_of_prompts']:,} bytes)",
        "prompts": f"{facts['num_rows']:,}, of which {facts['num_rows_committed']:,} are done",
        "shards left": f"{facts['num_shards_remaining']:,} of up to {job.shard_rows:,} prompts",
        "images": f"{facts['num_images']:,} ({facts['images_per_row']} a prompt)",
        "images left": f"{facts['num_images_remaining']:,}",
        "output": job.output,
    }
    for key, value in rows.items():
        click.echo(f"{key:<13} {value}")
    for line in remarks(job):
        click.echo(f"note          {line}")
