"""The actor: one process, one loaded engine, batches filled from every shard it holds. Ray-free.

Several threads may be inside `paint` at once, one per shard. Whichever of them finds the engine idle renders the next
batch for all of them, so the tail of one shard and the head of the next share a batch.

When memory runs out, the batch is halved for good and its images are rendered again: an image's bytes do not depend on
the batch.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from actors.engines import Engine
from actors.errors import EngineFailedError
from actors.out_of_memory import is_out_of_memory
from actors.request import ImageRequest, Rejection, RenderedImage

Answer = tuple[ImageRequest, RenderedImage | Rejection]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """A batch that was rendered: its images, how many there might have been, and how many wait for the next."""

    num_images: int
    batch_size: int
    num_waiting: int
    seconds: float


class _Ticket:
    """One `paint` call: how many of its images are still to come, and those that are finished and not yet yielded."""

    def __init__(self) -> None:
        self.num_pending = 0
        self.is_closed = False
        self.finished: list[Answer] = []


class Painter:
    """Renders requests with one engine, `batch_size` at a time, in the order they were handed in."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.engine = engine
        self._on_batch = on_batch
        self.batch_size = batch_size or engine.default_batch_size
        self._waiting: deque[tuple[_Ticket, ImageRequest]] = deque()
        self._state = threading.Condition()
        self._engine_is_busy = False

    def paint(self, requests: Sequence[ImageRequest]) -> Iterator[list[Answer]]:
        """Yield each request with its answer as they are made, in lists; every request is answered exactly once."""
        ticket = self._queue(requests)
        try:
            while ticket.num_pending or ticket.finished:
                batch = self._wait_for_turn(ticket)
                if batch:
                    self._render(ticket, batch)
                with self._state:
                    finished, ticket.finished = ticket.finished, []
                if finished:
                    yield finished
        finally:
            self._withdraw(ticket)

    def _queue(self, requests: Sequence[ImageRequest]) -> _Ticket:
        """Refuse at once what the engine can never render, and queue the rest."""
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
            self._waiting.extend(renderable)
            self._state.notify_all()
        return ticket

    def _wait_for_turn(self, ticket: _Ticket) -> list[tuple[_Ticket, ImageRequest]]:
        """Block until this ticket has results (returns nothing) or the engine is idle (returns the batch to render)."""
        with self._state:
            self._state.wait_for(lambda: ticket.finished or (not self._engine_is_busy and self._waiting))
            if ticket.finished:
                return []
            self._engine_is_busy = True
            return [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]

    def _render(self, renderer: _Ticket, batch: list[tuple[_Ticket, ImageRequest]]) -> None:
        """Render one batch and hand each answer to the ticket it belongs to.

        If the engine raises, the call whose thread rendered fails, and what the batch held of other calls goes back to
        the front of the queue for them to find. If memory runs out, all of it goes back and no call fails.
        """
        answers: list[RenderedImage | Rejection] | None = None
        is_too_big = False
        try:
            answers = self._ask_engine([request for _, request in batch])
            is_too_big = answers is None
        finally:
            if is_too_big:
                gc.collect()  # what the failed call still holds, before the next is tried
            with self._state:
                if is_too_big:
                    self.batch_size = min(self.batch_size, len(batch) // 2)
                if answers is None:
                    left = [e for e in batch if (is_too_big or e[0] is not renderer) and not e[0].is_closed]
                    self._waiting.extendleft(reversed(left))
                for (ticket, request), answer in zip(batch, answers or (), strict=False):
                    ticket.finished.append((request, answer))
                    ticket.num_pending -= 1
                self._engine_is_busy = False
                self._state.notify_all()

    def _ask_engine(self, requests: list[ImageRequest]) -> list[RenderedImage | Rejection] | None:
        """The engine's answers; None if memory ran out and fewer images may go through."""
        start = time.monotonic()
        try:
            answers = self.engine.render(requests)
        except Exception as error:
            if len(requests) > 1 and is_out_of_memory(error):
                return None
            raise EngineFailedError(f"{type(error).__name__}: {error}") from error
        self._on_batch(
            BatchReport(
                num_images=len(requests),
                batch_size=self.batch_size,
                num_waiting=len(self._waiting),
                seconds=time.monotonic() - start,
            )
        )
        asked, answered = [request.image_id for request in requests], [answer.image_id for answer in answers]
        if answered != asked:
            raise AssertionError(f"the engine was asked for {asked} and answered {answered}")
        return answers

    def _withdraw(self, ticket: _Ticket) -> None:
        """Forget what a closed or failed call still had waiting."""
        with self._state:
            ticket.is_closed = True
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not ticket)
            self._state.notify_all()
