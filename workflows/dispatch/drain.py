"""A request to end in an orderly way: take nothing new, finish what is in flight within a grace time. Knows no Ray."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from actors.errors import JobFailure


class DrainedError(JobFailure):
    """The job was told to end and did, with shards left."""


class Drain:
    """Whether the driver was asked to end; the first SIGTERM asks, a second one ends it as a Ctrl-C does."""

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self._asked = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Take SIGTERM for a request while the block runs. Signals belong to the main thread; elsewhere: nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

        def take(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            loop.call_soon_threadsafe(self.ask)

        signal.signal(signal.SIGTERM, take)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    async def wait_for(self, work: Coroutine[Any, Any, None], close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work; once asked to end, `close` what feeds it and wait for what is left of the grace time."""
        working, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await close()
                await asyncio.wait((working,), timeout=self.grace_seconds)
            if working.done():
                await working
        finally:
            for waiting in (working, asked):
                waiting.cancel()
