"""Runs the contestants one after another, each in a process of its own, and keeps the table of their rows."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.gpu.contestants import CONTESTANTS
from benchmarks.gpu.row import HEAD, Row

SHOWN_LINES = 25  # of what a failed contestant wrote to standard error
END_SECONDS = 10  # from SIGTERM to SIGKILL


@dataclass(kw_only=True, slots=True)
class Table:
    """The rows so far; `folder` is where they are written after each, or None.

    Skipping a contestant for lack of time is not a failure.
    """

    folder: Path | None
    command: str
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def has_failures(self) -> bool:
        return bool(self.failures) or not all(row.is_ok for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row.to_markdown(), flush=True)
        self._save()

    def fail(self, text: str) -> None:
        self._say(text, self.failures)

    def skip(self, text: str) -> None:
        self._say(text, self.skipped)

    def _say(self, text: str, texts: list[str]) -> None:
        texts.append(text)
        print(f"\n{text}\n", flush=True)
        self._save()

    def _save(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        today = datetime.date.today().isoformat()
        lines = [f"# One GPU, {today}", f"\n`{self.command}`\n", HEAD, *(row.to_markdown() for row in self.rows)]
        lines += [f"\n```text\n{text}\n```" for text in (*self.failures, *self.skipped)]
        (self.folder / f"{today}-gpu.md").write_text("\n".join(lines) + "\n", "utf-8")


class _Process:
    """A contestant's process. It imports what it needs and waits for the word to begin."""

    def __init__(self, name: str, *, is_rehearsal: bool) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.gpu", "--contestant", name, *(["--rehearse"] * is_rehearsal)]
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # it may have children: they end with it
        )

    def race(self, table: Table, seconds: float) -> None:
        """Let it begin, and add its rows to the table as they come; it ends after `seconds` at the latest."""
        started_at = time.monotonic()
        timer = threading.Timer(seconds, self.end)
        timer.start()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({row.name: row.value for row in table.rows}) + "\n")
            self._process.stdin.close()
        for line in self._process.stdout:
            table.add(Row(**json.loads(line)))
        code = self._process.wait()
        timer.cancel()
        took = time.monotonic() - started_at
        if code:
            reason = f"did not end within {seconds:.0f} s" if took >= seconds else f"exit code {code}"
            table.fail(f"{self.name} FAILED ({reason}):\n{self._last_lines()}")
        else:
            print(f"<!-- {self.name}: {took:.0f} s -->", flush=True)

    def end(self) -> None:
        """End the process and its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)

    def _last_lines(self) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-SHOWN_LINES:]).rstrip()


def run(names: Sequence[str], table: Table, *, seconds: float, is_rehearsal: bool) -> None:
    """All contestants in order, in `seconds` together: those without time are skipped.

    While one runs, the next imports its libraries.
    """
    deadline = time.monotonic() + seconds
    print(HEAD, flush=True)
    following: _Process | None = _Process(names[0], is_rehearsal=is_rehearsal)
    try:
        for name, next_name in zip(names, [*names[1:], None], strict=True):
            process = following
            following = _Process(next_name, is_rehearsal=is_rehearsal) if next_name else None
            seconds_left = deadline - time.monotonic()
            if seconds_left < CONTESTANTS[name].least_seconds:
                table.skip(f"{name} SKIPPED: {seconds_left:.0f} s are left")
            else:
                process.race(table, min(CONTESTANTS[name].most_seconds, seconds_left))
            process.end()
    finally:
        for left in (process, following):
            if left:
                left.end()
