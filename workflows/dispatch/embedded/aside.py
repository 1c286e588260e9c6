"""A coroutine on a thread of its own, for a caller whose thread may have a running event loop, as in a notebook.

The caller waits. Its first Ctrl-C asks the coroutine to drain, and a second one cancels it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from workflows.dispatch.drain import DrainedError

POLL_SECONDS = 0.2  # an exception that another thread sets in the caller's is raised when the caller runs


def run_aside(main: Callable[[], Coroutine[Any, Any, None]], drain: Callable[[], None]) -> None:
    """Run the coroutine to its end, and raise what it raises.

    A Ctrl-C calls `drain` in the coroutine's loop, and KeyboardInterrupt is raised after the coroutine has ended. A
    second one cancels the coroutine, and a third one leaves it.
    """
    aside = _Aside(main, drain)
    with _on_ctrl_c(aside.interrupt):
        aside.run()
    aside.raise_result()


class _Aside:
    """A thread with an event loop that runs one coroutine."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]], drain: Callable[[], None]) -> None:
        self._main, self._drain, self._future = main, drain, Future[None]()
        self._num_interrupts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="dispatch")

    def run(self) -> None:
        """Start the thread and wait until the coroutine has ended."""
        try:
            self._thread.start()
            while not self._future.done():
                self._wait(POLL_SECONDS)
        except BaseException:
            self._call(self._cancel)
            raise

    def interrupt(self) -> None:
        """Drain, then cancel, then raise KeyboardInterrupt. A signal handler may call it."""
        self._num_interrupts += 1
        if self._num_interrupts > 2:
            raise KeyboardInterrupt
        self._call(self._drain if self._num_interrupts == 1 else self._cancel)

    def raise_result(self) -> None:
        """Raise the error of the coroutine, or KeyboardInterrupt with what was done if there was a Ctrl-C."""
        error = self._future.exception()
        if self._num_interrupts > 1:
            raise KeyboardInterrupt("interrupted twice: the shards in flight were left unfinished") from error
        if self._num_interrupts and isinstance(error, DrainedError):
            raise KeyboardInterrupt(str(error)) from error
        if error is not None:
            raise error
        if self._num_interrupts:
            raise KeyboardInterrupt("interrupted after the last shard was committed")

    def _wait(self, seconds: float) -> None:
        try:
            wait((self._future,), timeout=seconds)
        except KeyboardInterrupt:  # set by another thread, such as the one of a notebook's stop button
            self.interrupt()

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the coroutine has ended
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 the caller's thread raises it
            self._future.set_exception(error)
        else:
            self._future.set_result(None)


@contextmanager
def _on_ctrl_c(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `interrupt` at each Ctrl-C while the block runs, in place of any handler of the program.

    A handler that raises could do so between any two steps of the wait, and asyncio's own only cancels the caller's
    task, which cannot end before the block. Only the main thread can set handlers.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        interrupt()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
