"""The toy engine and its looker: pixels are a hash of the request, scores a hash of pixels and question.

They need no torch and no weights, so tests are fast.
"""

from __future__ import annotations

import hashlib
import math
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


class ToyLooker:
    """Scores and captions any picture. Like the toy engine, it obeys words, here in a question.

    `toy:blind` gives NaN, `toy:tie` the same score to every image, `toy:look-bug` fails like a bug of the looker.
    """

    device = "cpu"
    score_kind = "hash"

    def refusal(self, question: str, max_tokens: int = 0) -> str | None:
        """Why no image can be asked this question, or None."""
        return "the question has an image placeholder" if "<image_placeholder>" in question else None

    def score(self, images: Sequence[np.ndarray], questions: Sequence[str]) -> np.ndarray:
        """A number from 0 to 1 for each image and its question, float32 [N]."""
        return np.array([_score(*pair) for pair in zip(images, questions, strict=True)], np.float32)

    def caption(self, images: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        """The colors that each image begins and ends with, in at most `max_tokens` words."""
        words = [f"a gradient from {_hex(image[0, 0])} to {_hex(image[-1, -1])}".split() for image in images]
        return [" ".join(some[:max_tokens]) for some in words]

    def see(
        self, images: Sequence[np.ndarray], questions: Sequence[str], are_scored: Sequence[bool], max_tokens: int
    ) -> list[tuple[str | None, float | None]]:
        """The caption of each image and, where it is wanted, the question's score."""
        captions, scores = self.caption(images, max_tokens), self.score(images, questions).tolist()
        return [
            (caption, score if is_scored else None)
            for caption, score, is_scored in zip(captions, scores, are_scored, strict=True)
        ]


def _score(image: np.ndarray, question: str) -> float:
    if "toy:look-bug" in question:
        raise RuntimeError("a bug met an image")
    if "toy:blind" in question:
        return math.nan
    if "toy:tie" in question:
        return 0.5
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass") + np.ascontiguousarray(image).tobytes()).digest()
    return int.from_bytes(digest[:3], "little") / (2**24 - 1)


def _hex(color: np.ndarray) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)
