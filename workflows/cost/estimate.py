"""The cost of the remaining images: GPU-hours, money, bytes and writes, each with the source of its number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from actors.checkpoint.open import Checkpoint
from actors.families import FAMILIES, KnownSpeed
from actors.recipe import Recipe
from workflows.job import RenderJob
from workflows.plan import Plan

# Measured: eight crops of 384 x 384 from two photographs, written by `encode`; all are within 30 % of the mean.
BYTES_PER_PIXEL = {"png": 1.72, "webp": 1.25, "jpeg": 0.59}
PHOTOGRAPHS = "the mean of eight crops of photographs; flat images take less"
# job.json, _SUCCESS and report.html.
REQUESTS_PER_JOB = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Images per second of one actor, and the source of the number. A real actor is slower than a limit.

    If the job looks at its images, each candidate also costs `seconds_per_look`, where that was measured.
    """

    images_per_second: float
    source: str
    seconds_per_look: float = 0.0
    is_limit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The cost of the remaining images. Fields that depend on the speed are None if it is unknown.

    `num_candidates` are the images to render: with a judge, several for each image. Re-rolls come on top.

    `gpu_hours` is 0 for a job on CPUs. `num_writes` are PUT requests to an object store, without retries and without
    rejected rows.
    """

    num_images: int
    num_candidates: int
    actor_hours: float | None
    gpu_hours: float | None
    price: float | None
    num_bytes: int
    bytes_source: str
    num_writes: int


def estimate(
    job: RenderJob,
    plan: Plan,
    speed: Speed | None,
    *,
    image_size: int,
    bytes_an_image: float | None = None,
    gpu_hour_price: float | None = None,
) -> Estimate:
    """Estimate from the number of rows; in a sweep, a row with its own weight counts like any other."""
    num_images = (plan.num_rows - plan.num_rows_committed) * job.recipe.images_per_row
    num_candidates = num_images * (job.recipe.judge.best_of if job.recipe.judge else 1)
    actor_hours = None
    if speed:
        actor_hours = num_candidates * (1 / speed.images_per_second + speed.seconds_per_look) / 3600
    gpu_hours = actor_hours * job.workers.gpus_per_actor if actor_hours is not None else None
    guess = BYTES_PER_PIXEL[job.images.format] * image_size**2
    latents = 4 * (image_size // 8) ** 2 * 4 if job.images.keep_latents else 0  # float32 [4, size / 8, size / 8]
    return Estimate(
        num_images=num_images,
        num_candidates=num_candidates,
        actor_hours=actor_hours,
        gpu_hours=gpu_hours,
        price=gpu_hours * gpu_hour_price if gpu_hours is not None and gpu_hour_price is not None else None,
        num_bytes=round(num_images * ((guess if bytes_an_image is None else bytes_an_image) + latents)),
        bytes_source=PHOTOGRAPHS if bytes_an_image is None else "the mean of the images measured",
        num_writes=_num_writes(job, plan, num_images),
    )


def known_speed(checkpoint: Checkpoint, recipe: Recipe, batch_size: int | None) -> KnownSpeed | None:
    """The speed of this model for the batch size nearest below `batch_size` (None: the largest); None if unknown.

    A speed of a family that takes steps holds for the default number of them and is scaled to the recipe's. A text
    before an image, whose length is open, is not in it.
    """
    family = FAMILIES[recipe.family]
    if not family.known_speeds:
        return None
    llama = checkpoint.shape.llama
    sizes = (llama.hidden_size, llama.num_layers)
    fitting = [speed for speed in family.known_speeds if (speed.hidden_size, speed.num_layers) == sizes]
    if not fitting:
        return None
    at_most = [speed for speed in fitting if batch_size is None or speed.batch is None or speed.batch <= batch_size]
    best = max(at_most or fitting[:1], key=lambda speed: speed.images_per_second)
    if recipe.protocol:
        return dataclasses.replace(best, source=f"{best.source}; without the text before each image")
    if recipe.num_inference_steps is None:
        return best
    default_steps = int(family.settings["num_inference_steps"])
    if recipe.num_inference_steps == default_steps:
        return best
    scaled = best.images_per_second * default_steps / recipe.num_inference_steps
    source = f"{best.source}, scaled from {default_steps} to {recipe.num_inference_steps} steps"
    return dataclasses.replace(best, images_per_second=scaled, source=source)


def _num_writes(job: RenderJob, plan: Plan, num_images: int) -> int:
    """By the commit: each image (and its latents) or each shard's pack, and each shard's manifest part."""
    num_shards = plan.num_shards_remaining
    if not num_shards:
        return 0
    is_packed, files_an_image = job.images.layout != "files", 1 + job.images.keep_latents
    return (num_shards if is_packed else num_images * files_an_image) + num_shards + REQUESTS_PER_JOB
