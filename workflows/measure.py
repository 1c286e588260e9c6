"""How fast an engine renders a job's first images on this machine, and how large their files are."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from actors.batcher import Batcher
from actors.engines import Engine
from actors.errors import InputError
from actors.request import RenderedImage
from workflows.job import RenderJob
from workflows.output.encode import encode_image
from workflows.plan import Plan
from workflows.rows import read_shard

NUM_TIMED = 3  # batches, after one that warms up


class NothingToMeasureError(InputError):
    """Every image is committed, or no row of the first shard can be rendered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The median speed of full batches, and the mean size of their image files."""

    images_per_second: float
    bytes_an_image: float
    device: str
    batch_size: int
    num_batches: int


def measure(engine: Engine, job: RenderJob, plan: Plan) -> Measurement:
    """Render whole batches of the first shard's requests, repeating them if the shard has too few."""
    shard = next(plan.remaining_shards(), None)
    requests = [] if shard is None else read_shard(job, shard).requests
    requests = [request for request in requests if engine.refusal(request) is None]
    if not requests:
        raise NothingToMeasureError("--measure: no remaining row of the first shard can be rendered")
    batch_size = Batcher(engine, job.workers.batch_size).batch_size
    batch = [requests[index % len(requests)] for index in range(batch_size)]
    answers, seconds = engine.render(batch), []
    for _ in range(NUM_TIMED):
        start = time.monotonic()
        answers = engine.render(batch)
        seconds.append(time.monotonic() - start)
    sizes = [
        len(encode_image(answer, job.images.format, request, job.recipe))
        for request, answer in zip(batch, answers, strict=True)
        if isinstance(answer, RenderedImage)
    ]
    if not sizes:
        raise NothingToMeasureError("--measure: none of the first rows could be rendered")
    return Measurement(
        images_per_second=batch_size / statistics.median(seconds),
        bytes_an_image=statistics.mean(sizes),
        device=engine.device,
        batch_size=batch_size,
        num_batches=NUM_TIMED,
    )
