"""A coroutine on a thread of its own, for a caller whose thread may have a running event loop, as in a notebook.

The caller waits. Its first Ctrl-C asks the coroutine to drain, and a second one cancels it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from workflows.dispatch.drain import DrainedError

POLL_SECONDS = 0.2  # an exception that another thread sets in the caller's is raised when the caller runs


def run_aside(main: Callable[[], Coroutine[Any, Any, None]], drain: Callable[[], None]) -> None:
    """Run the coroutine to its end, and raise what it raises.

    A KeyboardInterrupt in the caller's thread calls `drain` in the coroutine's loop. It is raised after the coroutine
    has ended; a second one cancels the coroutine.
    """
    aside = _Aside(main)
    try:
        aside.start()
        aside.wait()
    except KeyboardInterrupt as interrupt:
        aside.end_after(drain, interrupt)
    except BaseException:
        aside.cancel()
        raise
    aside.result()


class _Aside:
    """A thread with an event loop that runs one coroutine."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main, self._future = main, Future[None]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="dispatch")

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        while not self._future.done():
            wait((self._future,), timeout=POLL_SECONDS)

    def result(self) -> None:
        self._future.result()

    def end_after(self, drain: Callable[[], None], interrupt: KeyboardInterrupt) -> None:
        """Drain, wait for the end, and raise KeyboardInterrupt with what was done, or the error of the coroutine."""
        try:
            self._call(drain)
            self.wait()
        except KeyboardInterrupt:
            self.cancel()
            raise
        try:
            self.result()
        except DrainedError as error:
            raise KeyboardInterrupt(str(error)) from error
        raise KeyboardInterrupt("interrupted after the last shard was committed") from interrupt

    def cancel(self) -> None:
        """Cancel the coroutine and wait until it has ended."""
        self._call(lambda: [task.cancel() for task in asyncio.all_tasks(self._loop)])
        wait((self._future,))

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
