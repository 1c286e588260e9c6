"""How a running job is shown: a live view in a terminal, lines in a log, or JSON lines for a program.

Each class implements `workflows.run.Show`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.live import Live

from actors.errors import JobFailure
from jobs.terminal.browser import open_report
from jobs.terminal.json_lines import failure_as_json, progress_facts, result_facts
from jobs.terminal.last_word import last_word
from jobs.terminal.lines import plan_lines, progress_line, result_lines
from jobs.terminal.live_view import live_view
from jobs.terminal.text import print_json, say
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.plan import Plan
from workflows.run import Result, Show
from workflows.side_work import in_background

NOT_SHOWN = "the progress is no longer shown"
POLL_SECONDS = 0.5
JSON_SECONDS = 2.0
# Between the progress lines of a log: a twentieth of the time that the job has run, within these limits.
SHORTEST_SECONDS, LONGEST_SECONDS, SHARE_OF_RUN = 10.0, 300.0, 1 / 20


@contextmanager
def showing(
    job: str,
    output: str,
    *,
    as_json: bool = False,
    is_quiet: bool = False,
    opens_report: bool = False,
    on_done: str | None = None,
    on_result: Callable[[], None] | None = None,
) -> Iterator[Show]:
    """The right way to show a job: JSON lines or the result alone if asked for, a live view in a terminal, otherwise
    lines of a log.

    Its end is shown, and `on_done` is notified, even if Ray or the system ends this process. `on_result` is called when
    the job has succeeded, right before the result is shown.
    """
    console = Console(stderr=True)
    how: dict[str, Any] = {"opens_report": opens_report, "on_result": on_result}
    with last_word(job, output, advice=JobFailure.advice, as_json=as_json, on_done=on_done):
        if as_json:
            with failure_as_json(job, output):
                yield JsonShow(**how)
        elif is_quiet:
            yield QuietShow(**how)
        elif console.is_terminal and not console.is_dumb_terminal:
            yield LiveShow(console, **how)
        else:
            yield LogShow(**how)


class _Lines:
    """The lines on standard error that every way of showing a job has. With `opens_report`, the report is opened in a
    browser when it is there for the first time."""

    def __init__(self, *, opens_report: bool = False, on_result: Callable[[], None] | None = None) -> None:
        self._opens_report, self._on_result = opens_report, on_result

    def line(self, text: str) -> None:
        say(text)

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        for line in plan_lines(job, plan, is_resumed=is_resumed):
            say(line)

    def report(self, url: str) -> None:
        say(f"report    {url} (refreshed while the job runs)")
        self._open(url)

    def result(self, result: Result) -> None:
        if self._on_result:
            self._on_result()
        for line in result_lines(result):
            say(line)
        if result.report:
            self._open(result.report)

    def _open(self, url: str) -> None:
        if self._opens_report:
            self._opens_report = False
            open_report(url, say)


class QuietShow(_Lines):
    """Prints the result and nothing before it."""

    def line(self, text: str) -> None:
        """Not shown."""

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        """Not shown."""

    def report(self, url: str) -> None:
        self._open(url)

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        return nullcontext()


class LiveShow(_Lines):
    """Redraws a view of the progress in the terminal, and prints the totals at the end."""

    def __init__(self, console: Console, *, poll_seconds: float = POLL_SECONDS, **how: Any) -> None:
        super().__init__(**how)
        self._console, self._poll_seconds = console, poll_seconds

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        def show(stop: threading.Event) -> None:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not stop.wait(self._poll_seconds):
                    live.update(live_view(progress, self._console.width, self._console.height), refresh=True)
            say(progress_line(progress, is_over=True))

        with in_background(NOT_SHOWN, say, show):
            yield


class LogShow(_Lines):
    """Prints a progress line at intervals that grow with the job, and a line for each trouble when it comes."""

    def __init__(
        self, *, poll_seconds: float = POLL_SECONDS, shortest_seconds: float = SHORTEST_SECONDS, **how: Any
    ) -> None:
        super().__init__(**how)
        self._poll_seconds, self._shortest_seconds = poll_seconds, shortest_seconds

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        def show(stop: threading.Event) -> None:
            shown_trouble_at, next_line_at = None, self._shortest_seconds
            while not stop.wait(self._poll_seconds):
                if progress.last_trouble_at != shown_trouble_at:
                    shown_trouble_at = progress.last_trouble_at
                    _say_with_time(f"trouble: {progress.last_trouble}")
                if progress.seconds >= next_line_at:
                    _say_with_time(progress_line(progress))
                    share = SHARE_OF_RUN * progress.seconds
                    next_line_at = progress.seconds + min(max(self._shortest_seconds, share), LONGEST_SECONDS)
            _say_with_time(progress_line(progress, is_over=True))

        with in_background(NOT_SHOWN, say, show):
            yield


class JsonShow(_Lines):
    """Prints the progress, and at the end the result, as JSON lines on standard output."""

    def __init__(self, *, seconds: float = JSON_SECONDS, **how: Any) -> None:
        super().__init__(**how)
        self._seconds = seconds

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        def show(stop: threading.Event) -> None:
            while not stop.wait(self._seconds):
                print_json({"event": "progress", **progress_facts(progress)})
            print_json({"event": "progress", **progress_facts(progress)})

        with in_background(NOT_SHOWN, say, show):
            yield

    def result(self, result: Result) -> None:
        super().result(result)
        print_json({"event": "done", **result_facts(result)})


def _say_with_time(line: str) -> None:
    say(f"{time.strftime('%H:%M:%S')} {line}")
