"""Images a second that are known of a model on a device, each with where the number comes from. Measures nothing.

A number that nobody measured is a limit: no program can be faster on that device, and a real one is slower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkpoint.config import read_shape
from actors.recipe import Recipe

ROOFLINE = "limit by roofline, not measured"
REFERENCE_STEPS = 30  # of JanusFlow, which the limits are for


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRate:
    """One GPU at 384 x 384, guided, prompts of 32 tokens, `batch` images at a time (None: any)."""

    model: str
    family: str
    hidden_size: int
    num_layers: int
    device: str
    batch: int | None
    images_per_second: float
    source: str


def _limit(model: str, shape: tuple[str, int, int], batch: int | None, images_per_second: float) -> KnownRate:
    family, hidden_size, num_layers = shape
    return KnownRate(
        model=model,
        family=family,
        hidden_size=hidden_size,
        num_layers=num_layers,
        device="H200",
        batch=batch,
        images_per_second=images_per_second,
        source=ROOFLINE,
    )


SMALL, LARGE, FLOW = ("janus", 2048, 24), ("janus", 4096, 30), ("janusflow", 2048, 24)

# From 4.3 TB/s (a measured copy) and 790 TFLOP/s (a measured bfloat16 product) of one H200.
RATES = (
    _limit("Janus-1.3B, Janus-Pro-1B", SMALL, 16, 24.8),
    _limit("Janus-1.3B, Janus-Pro-1B", SMALL, 128, 43.8),
    _limit("Janus-Pro-7B", LARGE, 16, 6.8),
    _limit("Janus-Pro-7B", LARGE, 128, 15.9),
    _limit("JanusFlow-1.3B", FLOW, None, 8.6),
)


def known_rate(config: Mapping[str, Any], recipe: Recipe, batch: int | None) -> KnownRate | None:
    """The rate of a checkpoint of this config.json, for the batch size nearest below `batch` (None: the largest).

    JanusFlow's is scaled to the recipe's steps. None where nothing is known.
    """
    if recipe.family == "toy":
        return None
    llama = read_shape(dict(config)).llama
    shape = (recipe.family, llama.hidden_size, llama.num_layers)
    fitting = [rate for rate in RATES if (rate.family, rate.hidden_size, rate.num_layers) == shape]
    if not fitting:
        return None
    at_most = [rate for rate in fitting if batch is None or rate.batch is None or rate.batch <= batch]
    best = max(at_most or fitting[:1], key=lambda rate: rate.images_per_second)
    if recipe.num_inference_steps in (None, REFERENCE_STEPS):
        return best
    scaled = best.images_per_second * REFERENCE_STEPS / recipe.num_inference_steps
    source = f"{best.source}, scaled from {REFERENCE_STEPS} to {recipe.num_inference_steps} steps"
    return dataclasses.replace(best, images_per_second=scaled, source=source)
