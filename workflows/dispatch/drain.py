"""An orderly end, on SIGTERM or on request: take no new shards and finish those in flight within a grace period."""

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
    """The job was told to end and did so before all shards were committed."""


class Drain:
    """Whether the driver was told to end. The first SIGTERM drains it; a second one acts like Ctrl-C."""

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.reason = "received SIGTERM"
        self._requested = asyncio.Event()

    @property
    def is_requested(self) -> bool:
        return self._requested.is_set()

    def request(self, reason: str | None = None) -> None:
        """Drain. Call it in the thread of the event loop."""
        self.reason = reason or self.reason
        self._requested.set()

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Drain on SIGTERM while the block runs. Signals belong to the main thread; in others this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            loop.call_soon_threadsafe(self.request)

        signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    async def wait_for(self, work: Coroutine[Any, Any, None], close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work. On a request, `close` its supply and wait for the rest within the grace period."""
        working, requested = asyncio.ensure_future(work), asyncio.ensure_future(self._requested.wait())
        try:
            await asyncio.wait((working, requested), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await close()
                await asyncio.wait((working,), timeout=self.grace_seconds)
            if working.done():
                await working
        finally:
            for waiting in (working, requested):
                waiting.cancel()
