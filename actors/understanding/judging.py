"""Best of n: renders the candidates of each image, looks at them, and keeps the one with the highest score.

One try of an image renders `best_of` candidates, each with its own seed. If the highest score of all its candidates is
below `retry_below`, the image is re-rolled: another try, with the seeds that follow, up to `max_tries`. Equal scores
keep the lowest candidate. Candidates are ordinary requests of the batcher, so those of many images share a batch.

Scores depend on pixels and question alone, so the same candidate is kept in any batch, actor and retry.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from actors.errors import EngineFailedError
from actors.noise import candidate_seed
from actors.recipe import Judge
from actors.request import Answer, ImageRequest, Rejection, RenderedImage, Verdict

T = TypeVar("T")
R = TypeVar("R")


class Looker(Protocol):
    """The interface of a looker. Scores and captions depend on image and question alone, not on the batch.

    `score_kind` says how scores are computed, see docs/judging.md.
    """

    score_kind: str

    def refusal(self, question: str) -> str | None:
        """Why no image can be asked this question (it is longer than the model's context, say), or None."""

    def score(self, images: Sequence[np.ndarray], questions: Sequence[str]) -> np.ndarray:
        """P(yes) of each image uint8 [height, width, 3] and its question; float32 [N], from 0 to 1, or NaN."""

    def caption(self, images: Sequence[np.ndarray], max_tokens: int) -> Sequence[str | None]:
        """What each image shows, in at most `max_tokens` tokens; None where numbers became NaN."""


class Renderer(Protocol):
    """What is needed of a batcher, see `actors.batcher.Batcher`."""

    def render(self, requests: Sequence[ImageRequest], *, is_retry: bool = False) -> Iterator[list[Answer]]:
        """Lists of (request, answer) as images finish."""

    def holding_engine(self) -> AbstractContextManager[None]:
        """Keep all threads out of the engine while the block runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookReport:
    """How many images were scored or captioned, and the seconds that took."""

    num_images: int
    seconds: float


@dataclass(kw_only=True, slots=True)
class _Image:
    """An image whose candidates are being rendered.

    `best` is the index and the pixels of the best candidate so far. `fault` is the first reason why a candidate could
    not be rendered, and the image is rejected for it if no candidate could.
    """

    request: ImageRequest
    question: str
    seeds: list[int] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    best: tuple[int, RenderedImage] | None = None
    num_tries: int = 0
    num_pending: int = 0
    fault: str = ""
    seconds: float = 0.0

    @property
    def best_score(self) -> float:
        """The highest score so far; minus infinity if no candidate has one."""
        score = self.scores[self.best[0]] if self.best else None
        return -math.inf if score is None else score

    @property
    def nan_candidate(self) -> int | None:
        """A candidate whose score is NaN: it cannot be compared with the others."""
        return next((c for c, score in enumerate(self.scores) if score is not None and math.isnan(score)), None)

    def next_candidates(self, count: int) -> list[ImageRequest]:
        """The requests of another try. The id of a candidate is the image's, `#`, and the candidate's index."""
        first = len(self.seeds)
        self.seeds += [candidate_seed(self.request.seed, candidate) for candidate in range(first, first + count)]
        self.scores += [None] * count
        self.num_tries, self.num_pending = self.num_tries + 1, count
        return [
            dataclasses.replace(self.request, image_id=f"{self.request.image_id}#{candidate}", seed=seed)
            for candidate, seed in enumerate(self.seeds[first:], first)
        ]

    def take(self, candidate: int, answer: RenderedImage | Rejection, score: float | None) -> None:
        """Record the answer to a candidate and, if it was rendered, its score."""
        self.num_pending -= 1
        if isinstance(answer, Rejection):
            self.fault = self.fault or answer.reason
            return
        assert score is not None
        if self.best is None or (score, -candidate) > (self.best_score, -self.best[0]):
            self.best = (candidate, answer)
        self.scores[candidate] = score


class JudgingBatcher:
    """Renders requests like a `Batcher`, each as the best of its candidates, and says why in a `Verdict`.

    The looker shares the engine's device and may share its weights, so it works while the engine does not. `on_look`
    is called after each time that it did.
    """

    def __init__(
        self,
        batcher: Renderer,
        looker: Looker,
        judge: Judge,
        on_look: Callable[[LookReport], None] = lambda report: None,
    ) -> None:
        self._batcher, self._looker, self._judge, self._on_look = batcher, looker, judge, on_look

    def render(self, requests: Sequence[ImageRequest]) -> Iterator[list[Answer]]:
        """Yield lists of (request, answer) as images finish; every request is answered exactly once.

        The request of a rendered image has the seed of the kept candidate. A list is empty if a batch was rendered and
        finished no image. Raises EngineFailedError if the engine or the looker raises.
        """
        questions = [self._judge.question_about(request.prompt) for request in requests]
        refusals = [self._looker.refusal(question) for question in questions]
        if any(refusals):
            yield [
                (request, _reject(request, f"the judge's question: {reason}"))
                for request, reason in zip(requests, refusals, strict=True)
                if reason
            ]
        images = [
            _Image(request=request, question=question)
            for request, question, reason in zip(requests, questions, refusals, strict=True)
            if reason is None
        ]
        while images:
            again: list[_Image] = []
            yield from self._try(images, again)
            images = again

    def _try(self, images: Sequence[_Image], again: list[_Image]) -> Iterator[list[Answer]]:
        """Render and score one try of these images. Those that need another one are appended to `again`."""
        candidates: list[ImageRequest] = []
        place: dict[str, tuple[_Image, int]] = {}
        for image in images:
            first = len(image.seeds)
            requests = image.next_candidates(self._judge.best_of)
            place |= {request.image_id: (image, first + index) for index, request in enumerate(requests)}
            candidates += requests
        for answers in self._batcher.render(candidates, is_retry=any(image.num_tries > 1 for image in images)):
            placed = [(*place[request.image_id], answer) for request, answer in answers]
            self._score(placed)
            finished = [
                image for image in {id(image): image for image, _, _ in placed}.values() if not image.num_pending
            ]
            again += [image for image in finished if self._needs_another_try(image)]
            yield self._decide([image for image in finished if not self._needs_another_try(image)])

    def _score(self, placed: Sequence[tuple[_Image, int, RenderedImage | Rejection]]) -> None:
        """Score rendered candidates, and give every answer to its image."""
        rendered = [(image, answer) for image, _, answer in placed if isinstance(answer, RenderedImage)]
        start = time.monotonic()
        found = self._look(
            lambda part: self._looker.score(
                [answer.pixels for _, answer in part], [image.question for image, _ in part]
            ),
            rendered,
        )
        scores = iter(np.asarray(found, np.float32).tolist())
        share = (time.monotonic() - start) / max(1, len(rendered))
        for image, candidate, answer in placed:
            is_rendered = isinstance(answer, RenderedImage)
            image.seconds += share * is_rendered
            image.take(candidate, answer, next(scores) if is_rendered else None)

    def _needs_another_try(self, image: _Image) -> bool:
        judge = self._judge
        if judge.retry_below is None or image.num_tries >= judge.max_tries or image.nan_candidate is not None:
            return False
        return image.best_score < judge.retry_below

    def _decide(self, images: Sequence[_Image]) -> list[Answer]:
        """The answers to images whose last try is over, with captions where the job asks for them."""
        kept = [(image, image.best[1].pixels) for image in images if image.best and image.nan_candidate is None]
        captions: dict[int, str | None] = {}
        if (num_tokens := self._judge.caption_tokens) is not None:
            start = time.monotonic()
            texts = self._look(lambda part: self._looker.caption([pixels for _, pixels in part], num_tokens), kept)
            for (image, _), text in zip(kept, texts, strict=True):
                image.seconds += (time.monotonic() - start) / len(kept)
                captions[id(image)] = text
        return [self._answer(image, captions.get(id(image))) for image in images]

    def _look(self, look: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T]) -> list[R]:
        """The looker's answers for all items at once. It has the device for itself meanwhile."""
        if not items:
            return []
        start = time.monotonic()
        try:
            with self._batcher.holding_engine():
                answers = list(look(items))
        except Exception as error:
            raise EngineFailedError(f"{type(error).__name__}: {error}") from error
        self._on_look(LookReport(num_images=len(items), seconds=time.monotonic() - start))
        return answers

    def _answer(self, image: _Image, caption: str | None) -> Answer:
        if (candidate := image.nan_candidate) is not None:
            seed = image.seeds[candidate]
            return image.request, _reject(
                image.request, f"the judge's score of candidate {candidate} (seed {seed}) is NaN"
            )
        if image.best is None:
            return image.request, _reject(image.request, image.fault)
        candidate, rendered = image.best
        verdict = Verdict(
            score=image.best_score,
            score_kind=self._looker.score_kind,
            candidate=candidate,
            seeds=tuple(image.seeds),
            scores=tuple(image.scores),
            caption=caption,
            num_tries=image.num_tries,
            seconds=image.seconds,
        )
        request = dataclasses.replace(image.request, seed=image.seeds[candidate])
        return request, dataclasses.replace(rendered, image_id=request.image_id, verdict=verdict)


def _reject(request: ImageRequest, reason: str) -> Rejection:
    return Rejection(image_id=request.image_id, reason=reason)
