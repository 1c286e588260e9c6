"""What a person sees of a running job: one live line in a terminal, plain lines in a log, a summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from workflows.progress import Progress

LIVE_SECONDS = 0.5  # between redraws of the live line
LOG_SECONDS = 30.0  # between lines in a log


def say(line: str) -> None:
    """A line of the job's own log, on standard error so that standard output stays for programs."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(progress: Progress) -> Iterator[None]:
    """Show the progress while the block runs: redrawn in place on a terminal, a line now and then elsewhere."""
    console, stop = Console(stderr=True), threading.Event()
    show = _show_live if console.is_terminal else _show_log
    thread = threading.Thread(target=show, args=(console, progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def progress_line(progress: Progress) -> str:
    """`1,204/6,528 images · 3.1 images/s · ETA 28:40 · 2 actors · 3 rejected`"""
    parts = [f"{progress.num_done:,}/{progress.num_images_total:,} images"]
    if progress.painting_since is None:
        parts.append("loading the model")
    else:
        parts.append(f"{progress.images_per_second:.2f} images/s")
        parts.append(f"ETA {_clock(progress.eta_seconds)}")
    parts.append(f"{progress.num_painters} actor{'' if progress.num_painters == 1 else 's'}")
    parts.append(f"{progress.num_rejected:,} rejected")
    if progress.num_retries or progress.num_painters_lost:
        parts.append(f"{progress.num_retries} retries ({progress.last_trouble})")
    return " · ".join(parts)


def _show_live(console: Console, progress: Progress, stop: threading.Event) -> None:
    with console.status("") as status:
        while not stop.wait(LIVE_SECONDS):
            status.update(Text(progress_line(progress), overflow="ellipsis", no_wrap=True))
    say(progress_line(progress))


def _show_log(console: Console, progress: Progress, stop: threading.Event) -> None:
    while not stop.wait(LOG_SECONDS):
        say(f"{time.strftime('%H:%M:%S')} {progress_line(progress)}")
    say(f"{time.strftime('%H:%M:%S')} {progress_line(progress)}")


def _clock(seconds: float | None) -> str:
    """`h:mm:ss` or `mm:ss`."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
