"""The engine of a job that looks at images of the user: questions about pictures in, answers and scores out.

To the batcher it is an engine like any other. A row's answer does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from actors.recipe import Look
from actors.request import LookRequest, Rejection, SeenImage

ROWS_PER_BATCH = 16  # the looker itself takes fewer at a time where memory is short


class SeeingLooker(Protocol):
    """What the engine needs of a looker, see `actors.understanding.looker.Looker`."""

    device: str
    score_kind: str

    def refusal(self, question: str, max_tokens: int) -> str | None: ...

    def see(
        self, images: Sequence[np.ndarray], questions: Sequence[str], are_scored: Sequence[bool], max_tokens: int
    ) -> list[tuple[str | None, float | None]]: ...


class LookingEngine:
    """Answers requests with one looker."""

    default_batch_size = ROWS_PER_BATCH

    def __init__(self, looker: SeeingLooker, look: Look) -> None:
        self._looker, self._look = looker, look
        self.device = looker.device

    def refusal(self, request: LookRequest) -> str | None:
        """Why this question can never be answered, or None."""
        return self._looker.refusal(request.prompt, self._look.max_tokens)

    def render(self, requests: Sequence[LookRequest]) -> list[SeenImage | Rejection]:
        """One answer per request, in order."""
        seen = self._looker.see(
            [request.picture for request in requests],
            [request.prompt for request in requests],
            [request.is_scored for request in requests],
            self._look.max_tokens,
        )
        return [self._answer(request, *pair) for request, pair in zip(requests, seen, strict=True)]

    def _answer(self, request: LookRequest, text: str | None, score: float | None) -> SeenImage | Rejection:
        if text is None or (score is not None and math.isnan(score)):
            return Rejection(image_id=request.image_id, reason="the model's numbers became NaN or infinite")
        kind = None if score is None else self._looker.score_kind
        return SeenImage(image_id=request.image_id, answer=text, score=score, score_kind=kind)
