"""The batcher answers every request once, fills batches from several calls, and isolates failures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from actors.batcher import Answer, Batcher
from actors.errors import EngineFailedError
from actors.request import ImageRequest, Rejection, RenderedImage

SECONDS = 20  # a test that waits this long hangs
PETABYTE = 2**50


class RecordingEngine:
    """Renders an image of the seed, records its batches, and calls `before` ahead of each."""

    device = "cpu"
    default_batch_size = 4

    def __init__(self, before: Callable[[list[str]], None] = lambda batch: None) -> None:
        self.batches: list[list[str]] = []
        self._before = before
        self._is_rendering = threading.Lock()

    def refusal(self, request: ImageRequest) -> str | None:
        return "too long" if "refuse" in request.prompt else None

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        assert self._is_rendering.acquire(blocking=False), "two threads are in the engine"
        try:
            batch = [request.image_id for request in requests]
            self.batches.append(batch)
            self._before(batch)
            return [self._answer(request) for request in requests]
        finally:
            self._is_rendering.release()

    def _answer(self, request: ImageRequest) -> RenderedImage | Rejection:
        if "nan" in request.prompt:
            return Rejection(image_id=request.image_id, reason="NaN")
        return RenderedImage(image_id=request.image_id, pixels=np.full((1, 1, 3), request.seed, np.uint8))


def requests_of(name: str, num: int, **prompts: str) -> list[ImageRequest]:
    """`num` requests with the prompt "a"; `_2="nan"` gives the request with index 2 another prompt."""
    return [
        ImageRequest(
            image_id=f"{name}{n}",
            prompt_id=name,
            image_index=n,
            prompt=prompts.get(f"_{n}", "a"),
            seed=n,
            cfg_weight=5.0,
        )
        for n in range(num)
    ]


def render(batcher: Batcher, requests: Sequence[ImageRequest]) -> list[Answer]:
    return [answer for batch in batcher.render(requests) for answer in batch]


def ids(answers: Sequence[Answer]) -> list[str]:
    return [request.image_id for request, _ in answers]


def test_a_call_gets_its_answers_in_order_and_in_batches() -> None:
    engine = RecordingEngine()
    requests = requests_of("a", 10)

    batches = list(Batcher(engine).render(requests))

    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [request for batch in batches for request, _ in batch] == requests
    assert [answer.pixels[0, 0, 0] for batch in batches for _, answer in batch] == list(range(10))


def test_the_batch_size_of_the_job_overrides_that_of_the_engine() -> None:
    engine = RecordingEngine()
    render(Batcher(engine, batch_size=7), requests_of("a", 10))

    assert [len(batch) for batch in engine.batches] == [7, 3]


def test_no_requests_get_no_answers() -> None:
    assert list(Batcher(RecordingEngine()).render([])) == []


def test_a_request_that_the_engine_refuses_is_rejected_at_once_and_never_rendered() -> None:
    engine = RecordingEngine()
    batches = Batcher(engine).render(requests_of("a", 4, _1="refuse", _2="refuse"))

    first = next(batches)

    assert [answer for _, answer in first] == [Rejection(image_id=f"a{n}", reason="too long") for n in (1, 2)]
    assert engine.batches == []
    assert ids([answer for batch in batches for answer in batch]) == ["a0", "a3"]


def test_a_call_with_only_refused_requests_does_not_use_the_engine() -> None:
    engine = RecordingEngine()

    assert ids(render(Batcher(engine), requests_of("a", 2, _0="refuse", _1="refuse"))) == ["a0", "a1"]
    assert engine.batches == []


def test_a_rejected_image_is_an_answer_like_any_other() -> None:
    answers = render(Batcher(RecordingEngine()), requests_of("a", 3, _1="nan"))

    assert [type(answer).__name__ for _, answer in answers] == ["RenderedImage", "Rejection", "RenderedImage"]


# ---- several calls ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_each_of_many_threads_gets_its_own_answers() -> None:
    engine = RecordingEngine()
    batcher = Batcher(engine, batch_size=5)
    calls = [requests_of(f"call{n}-", 1 + n % 13) for n in range(60)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda requests: render(batcher, requests), calls))

    assert [ids(each) for each in answers] == [[request.image_id for request in requests] for requests in calls]
    rendered = [image_id for batch in engine.batches for image_id in batch]
    assert sorted(rendered) == sorted(request.image_id for requests in calls for request in requests)


class Gate:
    """Keeps an engine in its first batch until the test opens the gate."""

    def __init__(self) -> None:
        self.is_rendering, self._may_go_on = threading.Event(), threading.Event()

    def __call__(self, batch: list[str]) -> None:
        self.is_rendering.set()
        assert self._may_go_on.wait(SECONDS)

    def open(self) -> None:
        self._may_go_on.set()


def queue_behind(
    batcher: Batcher, gate: Gate, threads: ThreadPoolExecutor, *calls: Sequence[ImageRequest]
) -> list[Any]:
    """Start the calls one after the other while the first is in the engine; returns their futures."""
    futures = []
    for number, requests in enumerate(calls):
        futures.append(threads.submit(render, batcher, requests))
        assert gate.is_rendering.wait(SECONDS)
        num_queued = sum(len(call) for call in calls[: number + 1]) - min(batcher.batch_size, len(calls[0]))
        while len(batcher._waiting) < num_queued:
            threading.Event().wait(0.001)
    return futures


def test_a_batch_is_filled_from_several_calls() -> None:
    gate = Gate()
    engine = RecordingEngine(gate)
    batcher = Batcher(engine, batch_size=4)

    with ThreadPoolExecutor(3) as threads:
        calls = [requests_of("a", 5), requests_of("b", 2), requests_of("c", 3)]
        futures = queue_behind(batcher, gate, threads, *calls)
        gate.open()
        answers = [ids(future.result(SECONDS)) for future in futures]

    assert engine.batches == [["a0", "a1", "a2", "a3"], ["a4", "b0", "b1", "c0"], ["c1", "c2"]]
    assert answers == [[request.image_id for request in call] for call in calls]


# ---- failures --------------------------------------------------------------------------------------------------------


def fail_on(*bad: str) -> Callable[[list[str]], None]:
    def before(batch: list[str]) -> None:
        if set(bad) & set(batch):
            raise RuntimeError(f"the engine failed on {batch}")

    return before


def test_a_failing_engine_fails_the_call_and_the_next_call_is_rendered() -> None:
    batcher = Batcher(RecordingEngine(fail_on("a1")), batch_size=4)

    with pytest.raises(RuntimeError, match=r"the engine failed on"):
        render(batcher, requests_of("a", 3))

    assert ids(render(batcher, requests_of("b", 6))) == [f"b{n}" for n in range(6)]
    assert batcher.engine.batches == [["a0", "a1", "a2"], ["b0", "b1", "b2", "b3"], ["b4", "b5"]]


def test_batches_before_a_failure_are_answered() -> None:
    batches = Batcher(RecordingEngine(fail_on("a5")), batch_size=4).render(requests_of("a", 8))

    assert ids(next(batches)) == ["a0", "a1", "a2", "a3"]
    with pytest.raises(RuntimeError, match=r"the engine failed on"):
        next(batches)


@pytest.mark.timeout(60)
def test_calls_that_share_a_batch_with_a_failing_request_succeed_when_they_are_retried() -> None:
    gate = Gate()
    engine = RecordingEngine(lambda batch: (gate(batch), fail_on("bad2")(batch)))
    batcher = Batcher(engine, batch_size=4)
    calls = {name: requests_of(name, 5) for name in ("first", "bad", "good", "fine")}

    with ThreadPoolExecutor(4) as threads:
        futures = {name: threads.submit(render, batcher, requests) for name, requests in calls.items()}
        assert gate.is_rendering.wait(SECONDS)
        gate.open()
        failed = {name for name, future in futures.items() if future.exception(SECONDS) is not None}

    assert "bad" in failed
    assert not batcher._waiting
    for name in calls.keys() - {"bad"}:
        assert ids(render(batcher, calls[name])) == [f"{name}{n}" for n in range(5)]


def test_a_failing_call_returns_the_requests_of_other_calls_to_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And removes its own at once: another thread can take the next batch before the failed call has returned."""
    gate = Gate()
    engine = RecordingEngine(lambda batch: (gate(batch), fail_on("a4")(batch)))
    batcher = Batcher(engine, batch_size=4)

    with ThreadPoolExecutor(1) as threads:
        (call,) = queue_behind(batcher, gate, threads, requests_of("a", 5))
        ticket = batcher._queue(requests_of("b", 2))  # another call, whose thread does not run yet
        monkeypatch.setattr(batcher, "_withdraw", lambda ticket: None)
        gate.open()
        with pytest.raises(RuntimeError, match=r"the engine failed on"):
            call.result(SECONDS)

    assert [request.image_id for _, request in batcher._waiting] == ["b0", "b1"]
    assert ticket.num_pending == 2


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda made: [], r"asked for \['a0', 'a1'\] and answered \[\]"),
        (lambda made: made[:1], r"answered \['a0'\]"),
        (lambda made: made[::-1], r"answered \['a1', 'a0'\]"),
    ],
)
def test_an_engine_that_answers_other_requests_is_a_bug_and_does_not_hang(answers: Callable, message: str) -> None:
    class OtherAnswers(RecordingEngine):
        is_faulty = True

        def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
            made = super().render(requests)
            return answers(made) if self.is_faulty else made

    engine = OtherAnswers()
    batcher = Batcher(engine)

    with pytest.raises(AssertionError, match=message):
        render(batcher, requests_of("a", 2))
    engine.is_faulty = False
    assert ids(render(batcher, requests_of("a", 2))) == ["a0", "a1"]


# ---- an engine that streams ------------------------------------------------------------------------------------------


class StreamingEngine(RecordingEngine):
    """Takes the next batch before it answers the one before."""

    def stream(self, batches: Iterable[Sequence[ImageRequest]]) -> Iterator[list[RenderedImage | Rejection]]:
        previous = None
        for requests in batches:
            answers = self.render(requests)
            if previous is not None:
                yield previous
            previous = answers
        if previous is not None:
            yield previous


def test_a_streaming_engine_has_the_next_batch_when_it_answers_one() -> None:
    engine = StreamingEngine()
    batches = Batcher(engine).render(requests_of("a", 10))

    assert ids(next(batches)) == ["a0", "a1", "a2", "a3"]
    assert [len(batch) for batch in engine.batches] == [4, 4]
    assert [ids(batch) for batch in batches] == [["a4", "a5", "a6", "a7"], ["a8", "a9"]]


def test_a_stream_goes_on_with_the_requests_of_other_calls() -> None:
    engine = StreamingEngine()
    batcher = Batcher(engine)
    first = batcher.render(requests_of("a", 8))
    next(first)
    second = batcher.render(requests_of("b", 2))
    next(second)  # its thread drives the engine, which answers the first call's second batch on the way

    assert engine.batches == [["a0", "a1", "a2", "a3"], ["a4", "a5", "a6", "a7"], ["b0", "b1"]]
    assert ids(next(first)) == ["a4", "a5", "a6", "a7"]


def test_a_stream_starts_again_when_requests_come_after_its_end() -> None:
    batcher = Batcher(StreamingEngine())
    for name in "ab":
        assert ids(render(batcher, requests_of(name, 5))) == [f"{name}{n}" for n in range(5)]


def test_a_stream_that_fails_returns_the_requests_of_other_calls_and_fails_one() -> None:
    engine = StreamingEngine(fail_on("b1"))
    batcher = Batcher(engine)
    first = batcher.render(requests_of("a", 8))
    assert ids(next(first)) == ["a0", "a1", "a2", "a3"]

    with pytest.raises(EngineFailedError, match="the engine failed on"):
        render(batcher, requests_of("b", 2))

    assert ids(next(first)) == ["a4", "a5", "a6", "a7"]


def test_a_stream_that_runs_out_of_memory_renders_all_requests_in_smaller_batches() -> None:
    engine = StreamingEngine(run_out_above(3, MemoryError))
    requests = requests_of("a", 20)

    answers = render(Batcher(engine, batch_size=16), requests)

    assert [request for request, _ in answers] == requests
    assert [len(batch) for batch in engine.batches] == [16, 8, 4, *[2] * 10]


def test_a_stream_that_ends_without_an_answer_is_a_bug_and_does_not_hang() -> None:
    class SilentEngine(RecordingEngine):
        def stream(self, batches: Iterable[Sequence[ImageRequest]]) -> Iterator[list[RenderedImage | Rejection]]:
            return iter(list(batches)[:0])

    with pytest.raises(AssertionError, match=r"asked for \['a0', 'a1'\] and answered \[\]"):
        render(Batcher(SilentEngine()), requests_of("a", 2))


# ---- memory ----------------------------------------------------------------------------------------------------------


def run_out_above(num_images: int, error: type[Exception]) -> Callable[[list[str]], None]:
    def before(batch: list[str]) -> None:
        if len(batch) > num_images:
            raise error("no memory for so many")

    return before


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_batch_that_does_not_fit_in_memory_is_halved_and_every_image_is_rendered(error: type[Exception]) -> None:
    engine = RecordingEngine(run_out_above(3, error))
    batcher = Batcher(engine, batch_size=16)
    requests = requests_of("a", 20)

    answers = render(batcher, requests)

    assert [request for request, _ in answers] == requests
    assert [answer.pixels[0, 0, 0] for _, answer in answers] == list(range(20))
    assert [len(batch) for batch in engine.batches] == [16, 8, 4, *[2] * 10]
    assert batcher.batch_size == 2


def test_running_out_of_memory_in_a_shared_batch_fails_no_call() -> None:
    gate = Gate()
    engine = RecordingEngine(lambda batch: (gate(batch), run_out_above(2, MemoryError)(batch)))
    batcher = Batcher(engine, batch_size=4)

    with ThreadPoolExecutor(2) as threads:
        calls = [requests_of("a", 5), requests_of("b", 3)]
        futures = queue_behind(batcher, gate, threads, *calls)
        gate.open()
        answers = [ids(future.result(SECONDS)) for future in futures]

    assert answers == [[request.image_id for request in call] for call in calls]
    assert engine.batches[0] == ["a0", "a1", "a2", "a3"]
    assert [len(batch) for batch in engine.batches[1:]] == [2] * 4


def test_a_single_image_that_does_not_fit_in_memory_fails_its_call() -> None:
    batcher = Batcher(RecordingEngine(run_out_above(0, MemoryError)), batch_size=4)

    with pytest.raises(EngineFailedError, match="MemoryError: no memory for so many"):
        render(batcher, requests_of("a", 4))

    assert [len(batch) for batch in batcher.engine.batches] == [4, 2, 1]


# ---- calls that end early --------------------------------------------------------------------------------------------


def test_a_call_that_is_closed_early_removes_its_requests() -> None:
    engine = RecordingEngine()
    batcher = Batcher(engine, batch_size=2)
    batches = batcher.render(requests_of("a", 6))
    next(batches)

    batches.close()
    render(batcher, requests_of("b", 3))

    assert engine.batches == [["a0", "a1"], ["b0", "b1"], ["b2"]]


def test_a_call_that_is_closed_while_another_renders_its_request_leaves_nothing_in_the_queue() -> None:
    gate = Gate()
    engine = RecordingEngine(lambda batch: (gate(batch), fail_on("b0")(batch)))
    batcher = Batcher(engine, batch_size=4)
    closed = batcher._queue(requests_of("b", 1))

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(render, batcher, requests_of("a", 2))
        assert gate.is_rendering.wait(SECONDS)
        batcher._withdraw(closed)
        gate.open()
        with pytest.raises(RuntimeError, match=r"the engine failed on"):
            call.result(SECONDS)

    assert not batcher._waiting
    assert ids(render(batcher, requests_of("a", 2))) == ["a0", "a1"]


def test_a_slow_reader_does_not_delay_other_calls() -> None:
    batcher = Batcher(RecordingEngine(), batch_size=2)
    slow = batcher.render(requests_of("slow", 6))
    first = next(slow)

    assert ids(render(batcher, requests_of("quick", 3))) == ["quick0", "quick1", "quick2"]
    assert ids([*first, *(answer for batch in slow for answer in batch)]) == [f"slow{n}" for n in range(6)]
