"""Whether an image has the same bytes alone, in other company, and in another order; everything a batch may mix."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

import numpy as np

from actors.janus.engine import JanusEngine
from actors.janusflow.engine import JanusFlowEngine
from actors.request import ImageRequest, Rejection, RenderedImage
from benchmarks.gpu.row import Row
from benchmarks.gpu.stage import Stage, different_prompts, requests
from benchmarks.gpu.which_stage import compare_stages

MOST_WORDS = 100


def janus(stage: Stage) -> Iterator[Row]:
    """Codes and pixels of the 1B shape."""
    num_images, num_others = stage.pick((40, 80), (4, 3))
    mixed = _mixed(num_images, temperatures=(1.0, 0.0, 0.7))
    others = requests(different_prompts(num_others, seed=1), first_seed=1000, cfg_weight=5.0, temperature=1.0)
    engine = stage.janus_engine("Janus-Pro-1B")
    yield from _rows("Janus-Pro-1B", engine, mixed, others, ("codes", "pixels"))


def flow(stage: Stage) -> Iterator[Row]:
    """Latents and pixels of JanusFlow's shape."""
    num_images, num_others = stage.pick((9, 7), (3, 2))
    steps = (3, 5) if not stage.is_rehearsal else (1, 2)
    mixed = [
        dataclasses.replace(request, num_inference_steps=steps[n % 2], temperature=None)
        for n, request in enumerate(_mixed(num_images, temperatures=(None,)))
    ]
    others = requests(
        different_prompts(num_others, seed=1), first_seed=1000, cfg_weight=2.0, num_inference_steps=steps[1]
    )
    engine = stage.flow_engine()
    yield from _rows("JanusFlow-1.3B", engine, mixed, others, ("latents", "pixels"))


def _mixed(num: int, *, temperatures: Sequence[float | None]) -> list[ImageRequest]:
    """Requests of several lengths, shorter and longer than a page, weights, temperatures and negative prompts."""
    return [
        dataclasses.replace(
            request,
            cfg_weight=(1.0, 5.0, 2.0)[n % 3],
            temperature=temperatures[n % len(temperatures)],
            negative_prompt=(None, "blurry", None, "a long list of what is not wanted")[n % 4],
        )
        for n, request in enumerate(requests(different_prompts(num, most_words=MOST_WORDS), cfg_weight=1.0))
    ]


def _rows(
    name: str,
    engine: JanusEngine | JanusFlowEngine,
    mixed: Sequence[ImageRequest],
    others: Sequence[ImageRequest],
    parts: Sequence[str],
) -> Iterator[Row]:
    """Compare a batch of all with: each of two alone, a part in reverse order, and a part shuffled among others.

    The last is also streamed in two batches, so that images are decoded while others are computed. Where images
    differ, the engine's stages are compared, too.
    """
    chance, expected, are_same = random.Random(3), _stream(engine, [mixed]), True
    shuffled = [*chance.sample(mixed, (len(mixed) + 1) // 2), *others]
    chance.shuffle(shuffled)
    for company, batches in (
        ("again", [mixed]),
        ("alone", [mixed[:1], mixed[-1:]]),
        ("reversed part", [mixed[len(mixed) // 2 :: -1]]),
        ("shuffled among others", [shuffled]),
        ("the same, streamed", [shuffled[: len(shuffled) // 3], shuffled[len(shuffled) // 3 :]]),
    ):
        found = _stream(engine, batches)
        compared = [image_id for image_id in found if image_id in expected]
        for part in parts:
            num_same = sum(_same(found[i], expected[i], part) for i in compared)
            are_same = are_same and num_same == len(compared)
            yield Row(
                name=f"{name}: same {part}, {company}",
                value=num_same,
                unit=f"of {len(compared)}",
                is_ok=num_same == len(compared),
            )
    if not are_same:
        yield from compare_stages(name, engine, mixed)


def _stream(
    engine: JanusEngine | JanusFlowEngine, batches: Sequence[Sequence[ImageRequest]]
) -> dict[str, RenderedImage | Rejection]:
    return {answer.image_id: answer for answers in engine.stream(batches) for answer in answers}


def _same(a: RenderedImage | Rejection, b: RenderedImage | Rejection, part: str) -> bool:
    """Whether both are images with the same bytes; a rejection is not: random weights must not give one."""
    if isinstance(a, Rejection) or isinstance(b, Rejection):
        return False
    return np.array_equal(getattr(a, part), getattr(b, part))
