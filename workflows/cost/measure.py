"""How fast an engine renders a job's first images on this machine, and how large their files are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from actors.batcher import Batcher
from actors.engines import Engine
from actors.errors import InputError
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.understanding.judging import Looker
from workflows.job import RenderJob
from workflows.output.encode import encode_image
from workflows.plan import Plan
from workflows.rows import read_shard

T = TypeVar("T")

NUM_TIMED = 3  # batches, after one that warms up


class NothingToMeasureError(InputError):
    """Every image is committed, or no row of the first shard can be rendered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The median speed of full batches, the mean size of their image files, and the median time of looking at one image
    of a batch (0 if the job looks at none)."""

    images_per_second: float
    seconds_per_look: float
    bytes_an_image: float
    device: str
    batch_size: int
    num_batches: int


def measure(engine: Engine, looker: Looker | None, job: RenderJob, plan: Plan) -> Measurement:
    """Render whole batches of the first shard's requests, repeating them if the shard has too few, and look at them."""
    shard = next(plan.remaining_shards(), None)
    requests = [] if shard is None else cast("list[ImageRequest]", read_shard(job, shard).requests)
    requests = [request for request in requests if engine.refusal(request) is None]
    if not requests:
        raise NothingToMeasureError("--measure: no remaining row of the first shard can be rendered")
    batch_size = Batcher(engine, job.workers.batch_size).batch_size
    batch = [requests[index % len(requests)] for index in range(batch_size)]
    answers, seconds = _timed(lambda: engine.render(batch))
    sizes = [
        len(encode_image(answer, job.images.format, request, job.recipe))
        for request, answer in zip(batch, answers, strict=True)
        if isinstance(answer, RenderedImage)
    ]
    if not sizes:
        raise NothingToMeasureError("--measure: none of the first rows could be rendered")
    return Measurement(
        images_per_second=batch_size / seconds,
        seconds_per_look=0.0 if looker is None else _seconds_per_look(looker, job, batch, answers),
        bytes_an_image=statistics.mean(sizes),
        device=engine.device,
        batch_size=batch_size,
        num_batches=NUM_TIMED,
    )


def _seconds_per_look(
    looker: Looker, job: RenderJob, batch: Sequence[ImageRequest], answers: Sequence[RenderedImage | Rejection]
) -> float:
    """Scoring one candidate. Captions are made of kept images alone, so each costs a candidate its share of one."""
    judge = job.recipe.judge
    assert judge is not None
    pairs = [(one, answer) for one, answer in zip(batch, answers, strict=True) if isinstance(answer, RenderedImage)]
    pixels, questions = [answer.pixels for _, answer in pairs], [judge.question_about(one.prompt) for one, _ in pairs]
    _, seconds = _timed(lambda: looker.score(pixels, questions))
    num_tokens = judge.caption_tokens
    if num_tokens is not None:
        _, caption_seconds = _timed(lambda: looker.caption(pixels, num_tokens))
        seconds += caption_seconds / judge.best_of
    return seconds / len(pairs)


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its median time in seconds after one call that warms up."""
    result, seconds = call(), []
    for _ in range(NUM_TIMED):
        start = time.monotonic()
        result = call()
        seconds.append(time.monotonic() - start)
    return result, statistics.median(seconds)
