"""`janus-batch plan`: print what a job would render and what that would cost, before anything is rendered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from actors.families import ROOFLINE
from actors.recipe import Judge, Recipe
from jobs.job_file.errors import JobFileError
from jobs.job_file.resolve import Models, open_models_of, remarks, resolve
from jobs.job_file.spec import JobSpec
from jobs.terminal.printer import Printer, printing
from jobs.terminal.prompt_rows import prompt_facts, prompt_rows
from jobs.terminal.text import judge_line
from workflows.cost.estimate import Estimate, Speed, estimate, known_speed
from workflows.export.limits import bytes_text, columns_that_exports_refuse, limits_of_job
from workflows.job import RenderJob
from workflows.output.claim import check_claim
from workflows.output.remaining import check_ids, find_job_prompts, plan_job
from workflows.plan import Plan
from workflows.prompts import num_duplicates

# Fields of a recipe that follow from the weights and the machine: a plan reads no weights, and may run elsewhere.
NOT_IN_A_PLAN = ("recipe.weights_sha256", "recipe.vae_sha256", "recipe.judge.weights_sha256", "recipe.dtype")

NO_ROWS = "the prompts have no rows; a run without images fails, unless --allow-empty is given"


def plan(
    spec: JobSpec,
    *,
    as_json: bool,
    measure: bool = False,
    images_per_second: float | None = None,
    gpu_hour_price: float | None = None,
) -> int:
    """Print the plan. The exit code is always 0, because errors are raised.

    The speed of one actor is `images_per_second` if given, otherwise measured here if `measure`, otherwise looked up.
    """
    if measure and spec.task == "understand":
        raise JobFileError("--measure: it renders images, and a job with task: understand renders none")
    num_gpus = _num_gpus() if measure else 0
    models = open_models_of(spec)
    job = resolve(spec, num_gpus=num_gpus, with_digest=measure, models=models)
    files = find_job_prompts(job)
    check_claim(job, ignore=NOT_IN_A_PLAN)
    check_ids(job, files)
    remaining = plan_job(job, files)
    duplicates = 0 if job.reading.deduplicate or job.recipe.look else num_duplicates(files, job.storage)
    facts = _facts(job, remaining) | prompt_facts(remaining, duplicates)
    with printing(is_quiet=as_json) as printer:
        speed, bytes_an_image = _speed(job, remaining, models, printer, measure=measure)
    if images_per_second is not None:
        look = speed.seconds_per_look if speed else 0.0
        source = "given by --images-per-second"
        speed = Speed(images_per_second=images_per_second, source=source, seconds_per_look=look)
    cost = estimate(
        job,
        remaining,
        speed,
        image_size=models[0].image_size,
        bytes_an_image=bytes_an_image,
        gpu_hour_price=gpu_hour_price,
    )
    notes = [*remarks(job), *([] if remaining.num_rows else [NO_ROWS])]
    limits = limits_of_job(job, remaining, cost.num_bytes / max(cost.num_images, 1))
    limits += columns_that_exports_refuse(files[0].carried, job.recipe)
    if as_json:
        click.echo(json.dumps({**facts, **_cost_facts(speed, cost), "limits": limits, "notes": notes}))
    else:
        _print_table(job, facts, speed, cost, [*notes, *limits])
    return 0


def _model_rows(recipe: Recipe) -> dict[str, str]:
    """What is done with the checkpoint before it renders."""
    adapters = ", ".join(f"{adapter.name} x {adapter.weight:g}" for adapter in recipe.adapters)
    writes = f"{recipe.protocol}: writes a text before each image" if recipe.protocol else ""
    return {key: value for key, value in (("adapters", adapters), ("protocol", writes)) if value}


def _num_gpus() -> int:
    from workflows.dispatch.cluster import Cluster  # loads ray

    return Cluster().num_gpus()


def _speed(
    job: RenderJob, plan: Plan, models: Models, printer: Printer, *, measure: bool
) -> tuple[Speed | None, float | None]:
    """The speed of an actor, and the bytes per image if they were measured."""
    if measure:
        from actors.engines import open_looker, start_engine
        from workflows.cost.measure import measure as measure_engine

        with printer.step("loading the model"):
            engine = start_engine(job.recipe, *models, allow_faults=job.allow_faults)  # loads torch
            looker = open_looker(job.recipe, job.storage, engine)
        with printer.step("rendering the first images"):
            found = measure_engine(engine, looker, job, plan)
        source = f"measured here: {found.device}, batches of {found.batch_size}, the median of {found.num_batches}"
        speed = Speed(images_per_second=found.images_per_second, source=source, seconds_per_look=found.seconds_per_look)
        return speed, found.bytes_an_image
    known = None if job.recipe.look else known_speed(models[0], job.recipe, job.workers.batch_size)
    if known is None:
        return None, None
    batch = f", batches of {known.batch}" if known.batch else ""
    source = f"{known.model} on one {known.device}{batch}: {known.source}"
    is_limit = known.source.startswith(ROOFLINE)
    return Speed(images_per_second=known.images_per_second, source=source, is_limit=is_limit), None


def _facts(job: RenderJob, plan: Plan) -> dict[str, Any]:
    recipe = job.recipe
    images_per_row = recipe.images_per_row
    return {
        "name": job.name,
        "family": recipe.family,
        "checkpoint": recipe.checkpoint,
        "revision": recipe.revision,
        "protocol": recipe.protocol,
        "adapters": [asdict(adapter) for adapter in recipe.adapters],
        "cfg_weight": list(recipe.cfg_weights),
        "num_shards_remaining": plan.num_shards_remaining,
        "images_per_row": images_per_row,
        "num_images": plan.num_images(images_per_row),
        "num_images_remaining": plan.num_images_remaining(images_per_row),
        **({} if recipe.judge is None else {"judge": asdict(recipe.judge)}),
    }


def _cost_facts(speed: Speed | None, cost: Estimate) -> dict[str, Any]:
    """The key `estimate` of the JSON output."""
    facts = asdict(cost)
    del facts["num_images"]
    return {"estimate": {**facts, "speed": None if speed is None else asdict(speed)}}


def _print_table(
    job: RenderJob, facts: dict[str, Any], speed: Speed | None, cost: Estimate, notes: Sequence[str]
) -> None:
    weights = ", ".join(f"{weight:g}" for weight in job.recipe.cfg_weights)
    rows = {
        "job": job.name,
        "model": f"{job.recipe.checkpoint} ({job.recipe.family})"
        + (f" @ {job.recipe.revision}" * bool(job.recipe.revision)),
        **_model_rows(job.recipe),
        **({"cfg_weight": weights} if job.recipe.look is None else {"question": job.recipe.look.question}),
        **prompt_rows(facts, job.reading),
        "shards left": f"{facts['num_shards_remaining']:,} of up to {job.shard_rows:,} prompts",
        "images": f"{facts['num_images']:,} ({facts['images_per_row']} per prompt)",
        "images left": f"{facts['num_images_remaining']:,}",
        **_judge_rows(job.recipe.judge, cost),
        **(_cost_rows(job, speed, cost) if job.recipe.look is None else {}),
        "output": job.output,
    }
    for key, value in rows.items():
        click.echo(f"{key:<13} {value}")
    for line in notes:
        click.echo(f"note          {line}")


def _judge_rows(judge: Judge | None, cost: Estimate) -> dict[str, str]:
    if judge is None:
        return {}
    most = f", at most {cost.num_candidates * judge.max_tries:,} with re-rolls" if judge.max_tries > 1 else ""
    return {"judge": judge_line(judge), "candidates": f"{cost.num_candidates:,} to render{most}"}


def _cost_rows(job: RenderJob, speed: Speed | None, cost: Estimate) -> dict[str, str]:
    rows = {}
    is_on_gpus = job.workers.gpus_per_actor > 0
    hours = cost.gpu_hours if is_on_gpus else cost.actor_hours
    if speed is None or hours is None:
        rows["speed"] = "unknown for this model; --measure renders a few images here, --images-per-second sets it"
    else:
        at_most, at_least = ("at most ", "at least ") if speed.is_limit else ("", "")
        rows["speed"] = f"{at_most}{speed.images_per_second:.3g} images/s per actor ({speed.source})"
        if job.recipe.judge:
            look = speed.seconds_per_look
            rows["looking"] = f"{1000 * look:.3g} ms per candidate" if look else "not counted; --measure measures it"
        rows["GPU-hours" if is_on_gpus or speed.is_limit else "CPU time"] = f"{at_least}{_hours(hours)}"
        if cost.price is not None:
            rows["price"] = f"{at_least}{cost.price:,.2f}"
    rows["image bytes"] = f"{bytes_text(cost.num_bytes)} ({cost.bytes_source})"
    rows["PUT requests"] = f"{cost.num_writes:,} (layout {job.images.layout}), if the output is an object store"
    return rows


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:,.1f} min" if 60 * hours >= 1 else f"{3600 * hours:.2g} s"
