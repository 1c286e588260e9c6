"""Side work, such as the report, the metrics or the display: it never changes how the work itself ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.errors import reason_line


@contextmanager
def side_work(failure: str, say: Callable[[str], None]) -> Iterator[None]:
    """Run the block. If it raises, whatever the error, say the `failure` and its reason in one line and continue."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 whatever it is, the work itself is done
        say(f"note: {failure}: {reason_line(error)}")


@contextmanager
def in_background(failure: str, say: Callable[[str], None], work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do side work in a thread while the block runs. `work` gets an event, and returns soon after it is set."""
    stop = threading.Event()

    def do_work() -> None:
        with side_work(failure, say):
            work(stop)

    thread = threading.Thread(target=do_work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
