"""What is said of a running job: a live view in a terminal, plain lines in a log, JSON lines for a program."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from jobs.terminal.json_lines import print_json, progress_facts
from jobs.terminal.live_view import clock_text, live_view
from jobs.terminal.text import counted
from workflows.dispatch.progress import Progress

POLL_SECONDS = 0.5
# Between the lines of a log: short at first, then a twentieth of the time the job has run.
SHORTEST_SECONDS, LONGEST_SECONDS, SHARE_OF_RUN = 10.0, 300.0, 1 / 20
JSON_SECONDS = 2.0
# What is said of a job none of whose actors has painted yet: how far the first of them is.
BEFORE_PAINTING = {
    "loading": "loading the model",
    "starting": "starting",
    "waiting": "waiting for room on the cluster",
}


def say(line: str) -> None:
    """A line of the job's own log, on standard error so that standard output stays for programs."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(progress: Progress, *, as_json: bool = False) -> Iterator[None]:
    """Show the progress while the block runs: JSON lines on standard output for a program, else on standard error a
    view that is redrawn in place (terminal) or a line now and then (log).
    """
    console, stop = Console(stderr=True), threading.Event()
    show = _show_json if as_json else _show_live if console.is_terminal and not console.is_dumb_terminal else _show_log
    thread = threading.Thread(target=show, args=(console, progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def progress_line(progress: Progress, *, is_over: bool = False) -> str:
    """`1,204/6,528 images · 3.10 images/s · ETA 28:40 · 2 actors · 3 rejected`; when it is over, what it came to."""
    parts = [f"{progress.num_done:,}/{counted(progress.num_images_total, 'image')}"]
    if is_over:
        parts.append(f"{progress.images_per_second:.2f} images/s")
    elif progress.painting_since is None:
        states = {place.state for place in progress.places}
        parts.append(next((words for state, words in BEFORE_PAINTING.items() if state in states), "starting"))
    else:
        parts.append(f"{progress.images_per_second_now:.2f} images/s")
        parts.append(f"ETA {clock_text(progress.eta_seconds)}")
    if not is_over:
        parts.append(counted(progress.num_painters, "actor"))
    parts.append(f"{progress.num_rejected:,} rejected")
    if progress.num_retries:
        parts.append(counted(progress.num_retries, "retry", "retries"))
    if progress.num_painters_lost:
        parts.append(counted(progress.num_painters_lost, "actor lost", "actors lost"))
    return " · ".join(parts)


def _show_live(console: Console, progress: Progress, stop: threading.Event) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not stop.wait(POLL_SECONDS):
            live.update(live_view(progress, console.width, console.height), refresh=True)
    say(progress_line(progress, is_over=True))


def _show_log(console: Console, progress: Progress, stop: threading.Event) -> None:
    """A line at intervals that grow with the job, and one for each trouble as it comes."""
    said_trouble_at, next_line_at = None, time.monotonic() + SHORTEST_SECONDS
    while not stop.wait(POLL_SECONDS):
        if progress.last_trouble_at != said_trouble_at:
            said_trouble_at = progress.last_trouble_at
            _say_timed(f"trouble: {progress.last_trouble}")
        if time.monotonic() >= next_line_at:
            _say_timed(progress_line(progress))
            has_run = time.monotonic() - progress.started_at
            next_line_at = time.monotonic() + min(max(SHORTEST_SECONDS, SHARE_OF_RUN * has_run), LONGEST_SECONDS)
    _say_timed(progress_line(progress, is_over=True))


def _show_json(console: Console, progress: Progress, stop: threading.Event) -> None:
    while not stop.wait(JSON_SECONDS):
        print_json({"event": "progress", **progress_facts(progress)})
    print_json({"event": "progress", **progress_facts(progress)})


def _say_timed(line: str) -> None:
    say(f"{time.strftime('%H:%M:%S')} {line}")
