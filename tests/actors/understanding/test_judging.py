"""Best of n: which candidates are rendered, which one is kept, and what a failure costs. Scores are set by the test."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from actors.batcher import Batcher
from actors.errors import EngineFailedError
from actors.noise import candidate_seed
from actors.recipe import Judge
from actors.request import Answer, ImageRequest, Rejection, RenderedImage, Verdict
from actors.understanding.judging import JudgingBatcher, LookReport
from tests.support.toy_job import judge

Scores = Callable[[int], float]


class SeedEngine:
    """Renders an image whose pixels are the seed. Seeds in `broken` cannot be rendered."""

    device = "cpu"
    default_batch_size = 4

    def __init__(self, broken: Sequence[int] = (), refused: str = "") -> None:
        self.broken, self.refused, self.batches = broken, refused, list[list[str]]()
        self.is_rendering = threading.Lock()

    def refusal(self, request: ImageRequest) -> str | None:
        return "too long" if request.prompt == self.refused else None

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        with self.is_rendering:
            self.batches.append([request.image_id for request in requests])
            return [self._render_one(request) for request in requests]

    def _render_one(self, request: ImageRequest) -> RenderedImage | Rejection:
        if request.seed in self.broken:
            return Rejection(image_id=request.image_id, reason="NaN in the pixels")
        return RenderedImage(image_id=request.image_id, pixels=np.array([[[request.seed]]], np.uint64))


class SeedLooker:
    """Scores an image by its seed, and notes what it is asked."""

    score_kind = "test"

    def __init__(self, score: Scores, engine: SeedEngine) -> None:
        self._score, self._engine = score, engine
        self.questions: list[str] = []

    def refusal(self, question: str) -> str | None:
        return "too long for the model" if len(question) > 40 else None

    def score(self, images: Sequence[np.ndarray], questions: Sequence[str]) -> np.ndarray:
        assert self._engine.is_rendering.acquire(blocking=False), "the engine is at work"
        self._engine.is_rendering.release()
        self.questions += questions
        return np.array([self._score(int(image[0, 0, 0])) for image in images], np.float32)

    def caption(self, images: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        return [f"{max_tokens} words about {image[0, 0, 0]}" for image in images]


def request(name: str = "a", seed: int = 7, prompt: str = "a cat") -> ImageRequest:
    return ImageRequest(image_id=name, prompt_id=name, image_index=0, prompt=prompt, seed=seed, cfg_weight=5.0)


def seeds_of(seed: int, count: int) -> list[int]:
    return [candidate_seed(seed, candidate) for candidate in range(count)]


def by_candidate(*scores: float, seed: int = 7) -> Scores:
    """The score of each candidate of an image with this seed."""
    return dict(zip(seeds_of(seed, len(scores)), scores, strict=True)).__getitem__


def render(
    settings: Judge, score: Scores, requests: Sequence[ImageRequest], engine: SeedEngine | None = None
) -> list[Answer]:
    engine = engine or SeedEngine()
    batcher = JudgingBatcher(Batcher(engine), SeedLooker(score, engine), settings)
    return [answer for batch in batcher.render(requests) for answer in batch]


def verdict_of(answers: Sequence[Answer]) -> Verdict:
    ((_, image),) = answers
    assert isinstance(image, RenderedImage)
    assert image.verdict is not None
    return image.verdict


def test_the_candidate_with_the_highest_score_is_kept_with_its_seed_and_pixels() -> None:
    ((kept, image),) = render(judge(best_of=3), by_candidate(0.25, 0.75, 0.5), [request()])

    assert kept == dataclasses.replace(request(), seed=candidate_seed(7, 1))
    assert isinstance(image, RenderedImage)
    assert (image.image_id, int(image.pixels[0, 0, 0])) == ("a", kept.seed)
    verdict = verdict_of([(kept, image)])
    assert (verdict.candidate, verdict.score, verdict.scores) == (1, 0.75, (0.25, 0.75, 0.5))
    assert (verdict.seeds, verdict.num_tries, verdict.score_kind) == (tuple(seeds_of(7, 3)), 1, "test")


def test_candidate_0_is_the_image_as_it_is_without_a_judge() -> None:
    ((kept, _),) = render(judge(), lambda seed: 0.1, [request()])

    assert kept == request()


@pytest.mark.parametrize(("scores", "kept"), [((0.5, 0.5, 0.5), 0), ((0.1, 0.5, 0.5), 1), ((0.0, 0.0, 0.0), 0)])
def test_equal_scores_keep_the_lowest_candidate(scores: tuple[float, ...], kept: int) -> None:
    assert verdict_of(render(judge(best_of=3), by_candidate(*scores), [request()])).candidate == kept


def test_scores_are_float32_so_that_the_manifest_holds_what_was_compared() -> None:
    verdict = verdict_of(render(judge(best_of=2), by_candidate(0.1, 0.1 + 1e-12), [request()]))

    assert verdict.candidate == 0
    assert verdict.score == float(np.float32(0.1))


def test_another_try_goes_ahead_of_the_images_that_wait_so_that_its_shard_is_finished() -> None:
    engine = SeedEngine()
    looker = SeedLooker(lambda seed: 0.1 if seed in seeds_of(7, 2) else 0.9, engine)
    batcher = JudgingBatcher(Batcher(engine), looker, judge(best_of=2, retry_below=0.5, max_tries=2))
    first = batcher.render([request("a", seed=7)])
    others = batcher.render([request(f"b{n}", seed=n) for n in range(4)])

    assert next(first) == []  # its candidates score too low
    assert len(next(others)) == 2
    assert len(next(first)) == 1

    assert engine.batches == [
        ["a#0", "a#1"],
        ["b0#0", "b0#1", "b1#0", "b1#1"],
        ["a#2", "a#3", "b2#0", "b2#1"],
    ]


@pytest.mark.parametrize(
    ("scores", "num_tries", "kept"),
    [
        ((0.1, 0.6), 1, 1),
        ((0.1, 0.2, 0.3, 0.9), 2, 3),
        ((0.1, 0.2, 0.5, 0.4), 2, 2),
        ((0.1, 0.4, 0.3, 0.2, 0.3, 0.3), 3, 1),
    ],
)
def test_an_image_that_scores_too_low_is_re_rolled_with_its_next_seeds(
    scores: tuple[float, ...], num_tries: int, kept: int
) -> None:
    verdict = verdict_of(render(judge(best_of=2, retry_below=0.5, max_tries=3), by_candidate(*scores), [request()]))

    assert (verdict.num_tries, verdict.candidate) == (num_tries, kept)
    assert verdict.scores == tuple(np.array(scores, np.float32).tolist())
    assert verdict.seeds == tuple(seeds_of(7, len(scores)))


def test_each_image_is_asked_about_its_own_prompt() -> None:
    engine = SeedEngine()
    looker = SeedLooker(lambda seed: 0.5, engine)
    batcher = JudgingBatcher(Batcher(engine), looker, judge(best_of=2))

    list(batcher.render([request("a", 1, " a cat "), request("b", 2, "a {prompt}")]))

    assert looker.questions == ["Is this a cat?"] * 2 + ["Is this a {prompt}?"] * 2


def test_only_the_kept_image_gets_a_caption() -> None:
    settings = judge(best_of=2, caption_tokens=9)

    assert verdict_of(render(settings, by_candidate(0.1, 0.2), [request()])).caption == (
        f"9 words about {candidate_seed(7, 1)}"
    )
    assert verdict_of(render(judge(), by_candidate(0.1), [request()])).caption is None


def test_candidates_of_many_images_share_batches_and_finish_as_they_come() -> None:
    engine, requests = SeedEngine(), [request(f"i{n}", n) for n in range(6)]
    batcher = JudgingBatcher(Batcher(engine), SeedLooker(lambda seed: seed / 2**64, engine), judge(best_of=3))

    finished = [[kept.image_id for kept, _ in batch] for batch in batcher.render(requests)]

    assert [len(batch) for batch in engine.batches] == [4, 4, 4, 4, 2]
    assert finished == [["i0"], ["i1"], ["i2", "i3"], ["i4"], ["i5"]]


def test_neither_the_batch_nor_other_images_change_what_is_kept() -> None:
    requests = [request(f"i{n}", n) for n in range(20)]
    settings = judge(best_of=3, retry_below=0.8, max_tries=4)

    def kept(batch_size: int, requests: Sequence[ImageRequest]) -> dict[str, tuple[int, tuple[int, ...]]]:
        engine = SeedEngine()
        batcher = JudgingBatcher(Batcher(engine, batch_size), SeedLooker(lambda s: s / 2**64, engine), settings)
        answers = [answer for batch in batcher.render(requests) for answer in batch]
        return {one.image_id: (one.seed, image.verdict.seeds) for one, image in answers}

    together = kept(7, requests)
    assert together == kept(1, requests) == {k: v for one in requests for k, v in kept(16, [one]).items()}
    assert {len(seeds) for _, seeds in together.values()} >= {3, 6}


def test_a_candidate_that_cannot_be_rendered_leaves_the_choice_to_the_others() -> None:
    engine = SeedEngine(broken=[candidate_seed(7, 1)])
    scores = dict(zip((0, 2), (0.25, 0.5), strict=True))

    verdict = verdict_of(render(judge(best_of=3), lambda seed: scores[seeds_of(7, 3).index(seed)], [request()], engine))

    assert (verdict.candidate, verdict.scores) == (2, (0.25, None, 0.5))


def test_an_image_is_rejected_if_none_of_its_candidates_can_be_rendered() -> None:
    engine = SeedEngine(broken=seeds_of(7, 4))
    requests = [request(), request("b", 8)]

    (answered, image), (other, fine) = render(
        judge(best_of=2, retry_below=0.5, max_tries=2), lambda seed: 0.9, requests, engine
    )[::-1]

    assert (answered, image) == (request(), Rejection(image_id="a", reason="NaN in the pixels"))
    assert other.image_id == "b"
    assert isinstance(fine, RenderedImage)


def test_a_request_that_the_engine_refuses_has_the_engines_reason() -> None:
    ((answered, image),) = render(judge(best_of=2), lambda seed: 0.9, [request()], SeedEngine(refused="a cat"))

    assert (answered, image) == (request(), Rejection(image_id="a", reason="too long"))


def test_a_question_that_the_looker_cannot_read_rejects_its_image_before_it_is_rendered() -> None:
    engine = SeedEngine()
    answers = render(judge(), lambda seed: 0.9, [request(prompt="cat " * 20), request("b", 8)], engine)

    assert answers[0][1] == Rejection(image_id="a", reason="the judge's question: too long for the model")
    assert engine.batches == [["b#0"]]


def test_a_score_of_nan_rejects_its_image_and_no_other() -> None:
    scores = by_candidate(0.5, math.nan)

    answers = render(
        judge(best_of=2, retry_below=0.9, max_tries=2),
        lambda seed: scores(seed) if seed in seeds_of(7, 2) else 1.0,
        [request(), request("b", 8)],
    )

    reason = f"the judge's score of candidate 1 (seed {candidate_seed(7, 1)}) is NaN"
    assert [type(image) for _, image in answers] == [Rejection, RenderedImage]
    assert answers[0] == (request(), Rejection(image_id="a", reason=reason))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError()])
def test_a_looker_that_fails_fails_the_call_like_an_engine(error: Exception) -> None:
    def fail(seed: int) -> float:
        raise error

    with pytest.raises(EngineFailedError, match=type(error).__name__):
        render(judge(), fail, [request()])


def test_looks_are_reported() -> None:
    engine, reports = SeedEngine(), list[LookReport]()
    looker = SeedLooker(lambda seed: 0.5, engine)
    batcher = JudgingBatcher(Batcher(engine), looker, judge(best_of=2, caption_tokens=1), reports.append)

    ((_, image),) = [answer for batch in batcher.render([request()]) for answer in batch]

    assert [report.num_images for report in reports] == [2, 1]
    assert isinstance(image, RenderedImage)
    assert image.verdict is not None
    assert image.verdict.seconds > 0
