"""Dynamic batching: renders the requests of several concurrent calls with one engine, in shared batches.

Several threads can be inside `Batcher.render` at once, one per shard. Whichever thread finds the engine idle renders
the next batch for all of them, so the tail of one shard and the head of the next share a batch. An engine that streams
is given a batch before it returns the one before, across calls and shards.

When memory runs out, the batch size is halved for good and the batch is rendered again in smaller pieces. This changes
no image: an image's bytes do not depend on its batch.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from actors.engines import Engine
from actors.errors import EngineFailedError, is_out_of_memory
from actors.request import Answer, ImageRequest, Rejection, RenderedImage

Stream = Callable[[Iterator[list[ImageRequest]]], Iterator[list[RenderedImage | Rejection]]]  # see `Engine`


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """Facts about a rendered batch; `num_waiting` images are queued for the next one."""

    num_images: int
    batch_size: int
    num_waiting: int
    seconds: float


class _Ticket:
    """The state of one `render` call: how many of its images are pending, and the answers not yet yielded."""

    def __init__(self) -> None:
        self.num_pending = 0
        self.is_closed = False
        self.finished: list[Answer] = []


_Entry = tuple[_Ticket, ImageRequest]


class Batcher:
    """Renders requests with one engine, in order, `batch_size` at a time (default: the engine's own batch size).

    `on_batch` is called after every rendered batch.
    """

    def __init__(
        self,
        engine: Engine,
        batch_size: int | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.engine = engine
        self.batch_size = batch_size or engine.default_batch_size
        self._on_batch = on_batch
        self._waiting: deque[_Entry] = deque()
        self._in_flight: deque[list[_Entry]] = deque()  # the batches that the engine has and has not answered
        self._stream: Iterator[list[RenderedImage | Rejection]] = iter(())
        self._state = threading.Condition()
        self._engine_is_busy = False

    def render(self, requests: Sequence[ImageRequest], *, is_retry: bool = False) -> Iterator[list[Answer]]:
        """Yield lists of (request, answer) as images finish; every request is answered exactly once.

        A retry is rendered before the requests that wait: the rest of its shard is finished. Raises EngineFailedError
        if the engine raises while this thread renders.
        """
        ticket = self._queue(requests, is_retry)
        try:
            while ticket.num_pending or ticket.finished:
                if self._wait_for_turn(ticket):
                    self._render_batch(ticket)
                with self._state:
                    finished, ticket.finished = ticket.finished, []
                if finished:
                    yield finished
        finally:
            self._withdraw(ticket)

    @contextmanager
    def holding_engine(self) -> Iterator[None]:
        """Wait until no thread is inside the engine, and keep all out of it while the block runs."""
        with self._state:
            self._state.wait_for(lambda: not self._engine_is_busy)
            self._engine_is_busy = True
        try:
            yield
        finally:
            with self._state:
                self._engine_is_busy = False
                self._state.notify_all()

    def _queue(self, requests: Sequence[ImageRequest], is_retry: bool = False) -> _Ticket:
        """Reject the requests that the engine can never render, and queue the others."""
        ticket = _Ticket()
        renderable = []
        for request in requests:
            reason = self.engine.refusal(request)
            if reason is None:
                renderable.append((ticket, request))
            else:
                ticket.finished.append((request, Rejection(image_id=request.image_id, reason=reason)))
        ticket.num_pending = len(renderable)
        with self._state:
            if is_retry:
                self._waiting.extendleft(reversed(renderable))
            else:
                self._waiting.extend(renderable)
            self._state.notify_all()
        return ticket

    def _wait_for_turn(self, ticket: _Ticket) -> bool:
        """Block until the ticket has answers, or until the engine is idle and has work (returns True, marked busy)."""
        with self._state:
            self._state.wait_for(lambda: ticket.finished or self._has_turn())
            if ticket.finished:
                return False
            self._engine_is_busy = True
            return True

    def _render_batch(self, renderer: _Ticket) -> None:
        """Get the engine's next answers and hand each to the ticket that it belongs to.

        If the engine raises, only the call of the rendering thread fails; the requests of other calls return to the
        front of the queue. If memory runs out, all requests return to the queue and no call fails.
        """
        answers: list[RenderedImage | Rejection] | None = None
        is_too_big = False
        try:
            answers = self._ask_engine()
            is_too_big = answers is None
        finally:
            if is_too_big:
                gc.collect()  # frees what the failed call still holds before the next attempt
            with self._state:
                if answers is None:
                    self._take_back(renderer, is_too_big=is_too_big)
                elif self._in_flight:
                    for (ticket, request), answer in zip(self._in_flight.popleft(), answers, strict=True):
                        ticket.finished.append((request, answer))
                        ticket.num_pending -= 1
                self._engine_is_busy = False
                self._state.notify_all()

    def _take_back(self, renderer: _Ticket, *, is_too_big: bool) -> None:
        """Return to the queue what an engine that raised did not answer; its stream is over."""
        if is_too_big:
            self.batch_size = min(self.batch_size, max(map(len, self._in_flight))) // 2
        lost = [entry for batch in self._in_flight for entry in batch]
        left = [e for e in lost if (is_too_big or e[0] is not renderer) and not e[0].is_closed]
        self._waiting.extendleft(reversed(left))
        self._in_flight.clear()
        self._stream = iter(())

    def _ask_engine(self) -> list[RenderedImage | Rejection] | None:
        """The answers of the oldest batch; None if memory ran out and a smaller batch can be tried."""
        start = time.monotonic()
        try:
            answers = next(self._stream, None)
            if answers is None and not self._in_flight:  # the stream ended when no request was waiting
                self._stream = self._start_stream()
                answers = next(self._stream, None)
        except Exception as error:
            if self.batch_size > 1 and sum(map(len, self._in_flight)) > 1 and is_out_of_memory(error):
                return None
            raise EngineFailedError(f"{type(error).__name__}: {error}") from error
        asked = [request.image_id for _, request in self._in_flight[0]] if self._in_flight else []
        answered = [answer.image_id for answer in answers or ()]
        self._on_batch(
            BatchReport(
                num_images=len(asked),
                batch_size=self.batch_size,
                num_waiting=len(self._waiting),
                seconds=time.monotonic() - start,
            )
        )
        if answered != asked:
            raise AssertionError(f"the engine was asked for {asked} and answered {answered}")
        return answers or []

    def _has_turn(self) -> bool:
        return not self._engine_is_busy and bool(self._waiting or self._in_flight)

    def _start_stream(self) -> Iterator[list[RenderedImage | Rejection]]:
        stream: Stream | None = getattr(self.engine, "stream", None)
        return map(self.engine.render, self._batches()) if stream is None else stream(self._batches())

    def _batches(self) -> Iterator[list[ImageRequest]]:
        """The batches of a stream: it ends when no request is waiting."""
        while True:
            with self._state:
                batch = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
                if batch:
                    self._in_flight.append(batch)
            if not batch:
                return
            yield [request for _, request in batch]

    def _withdraw(self, ticket: _Ticket) -> None:
        """Drop the queued requests of a call that was closed or has failed."""
        with self._state:
            ticket.is_closed = True
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not ticket)
            self._state.notify_all()
