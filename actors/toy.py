"""The toy engine: pixels are a hash of the request. It needs no torch and no weights, so tests are fast."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from actors.noise import derive_seed
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage

SIZE = 64  # pixels per side
NUM_CODES = 16
MAX_PROMPT_CHARACTERS = 2000


class ToyEngine:
    """Renders a gradient between two colors that the request decides, and obeys a few words in a prompt.

    The words are faults for tests: `toy:nan` makes the image impossible to render, `toy:sleep=S` takes S seconds,
    `toy:exit` ends the process, `toy:cuda` fails like a broken GPU and `toy:bug` like a bug of the engine.
    """

    default_batch_size = 16
    device = "cpu"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered, or None."""
        if len(request.prompt) > MAX_PROMPT_CHARACTERS:
            return f"prompt of {len(request.prompt)} characters is longer than the toy engine's {MAX_PROMPT_CHARACTERS}"
        return None

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order."""
        return [self._render_one(request) for request in requests]

    def _render_one(self, request: ImageRequest) -> RenderedImage | Rejection:
        if "toy:nan" in request.prompt:
            return Rejection(image_id=request.image_id, reason="the model's numbers became NaN")
        if "toy:exit" in request.prompt:
            os._exit(1)
        if "toy:cuda" in request.prompt:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if "toy:bug" in request.prompt:
            raise RuntimeError(f"a bug met image {request.image_id}")
        if "toy:sleep=" in request.prompt:
            time.sleep(float(request.prompt.split("toy:sleep=")[1].split()[0]))
        mark = f"{request.prompt}|{request.negative_prompt}|{request.cfg_weight!r}|{request.temperature!r}"
        codes = np.random.Philox(key=derive_seed(request.seed, mark, 0)).random_raw(NUM_CODES) % np.uint64(16384)
        return RenderedImage(image_id=request.image_id, pixels=_gradient(codes), codes=codes.astype(np.int32))


def _gradient(codes: np.ndarray) -> np.ndarray:
    """A diagonal gradient between two colors taken from the codes; uint8 [SIZE, SIZE, 3]."""
    start, stop = codes[:3] % 256, codes[3:6] % 256
    ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE))[..., None] / (2 * (SIZE - 1))
    return (start * (1 - ramp) + stop * ramp).astype(np.uint8)
