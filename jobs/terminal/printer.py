"""What a verb prints: its result as lines or as one JSON object on standard output, its progress on standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.terminal.text import print_json, say

FIRST_SECONDS, LINE_SECONDS = 5.0, 30.0  # a step in a log: until its first line, and between the others

# Called with how much of a step is done, and how much there is.
Update = Callable[[int, int], None]


@contextmanager
def printing(*, as_json: bool = False, is_quiet: bool = False) -> Iterator[Printer]:
    """A printer for a verb. With `as_json`, a verb that raises prints `{"error": ...}`, and the error is passed on."""
    try:
        yield Printer(as_json=as_json, is_quiet=is_quiet)
    except (Exception, KeyboardInterrupt) as error:
        if as_json:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            print_json({"error": reason})
        raise


class Printer:
    """`as_json`: one JSON object and nothing else. `is_quiet`: the result without progress and notes."""

    def __init__(self, *, as_json: bool, is_quiet: bool) -> None:
        self._as_json, self._is_quiet = as_json, as_json or is_quiet

    def line(self, text: str) -> None:
        """A line of the result."""
        if not self._as_json:
            click.echo(text)

    def some(self, lines: list[str], most: int) -> None:
        """The first lines of a list, indented, and how many more there are."""
        for line in lines[:most]:
            self.line(f"  {line}")
        if len(lines) > most:
            self.line(f"  ... and {len(lines) - most:,} more")

    def note(self, text: str) -> None:
        """A remark, on standard error."""
        if not self._is_quiet:
            say(text)

    def result(self, facts: dict[str, Any]) -> None:
        """The whole result, for programs."""
        if self._as_json:
            print_json(facts)

    @contextmanager
    def step(self, text: str) -> Iterator[Update]:
        """Say what the block does: a spinner with the time and the counts on a terminal, lines in a log."""
        console = Console(stderr=True)
        if self._is_quiet:
            yield lambda done, total: None
        elif console.is_terminal and not console.is_dumb_terminal:
            with _spinner(console, text) as update:
                yield update
        else:
            with _log(text) as update:
                yield update


@contextmanager
def _spinner(console: Console, text: str) -> Iterator[Update]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _log(text: str) -> Iterator[Update]:
    """A line if the step takes longer than `FIRST_SECONDS`, and then one with the counts every `LINE_SECONDS`."""
    next_at = time.monotonic() + LINE_SECONDS

    def update(done: int, total: int) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            say(f"{text}: {done:,} of {total:,}")
            next_at = time.monotonic() + LINE_SECONDS

    first = threading.Timer(FIRST_SECONDS, say, [f"{text} ..."])
    first.daemon = True
    first.start()
    try:
        yield update
    finally:
        first.cancel()
