"""The runs of schedules and how they went, in a SQLite file that outlives the scheduler. Not what is due, and when."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

RunState = Literal["waiting", "running", "done", "failed", "skipped", "dropped"]

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    schedule TEXT NOT NULL, scheduled_at TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    not_before TEXT NOT NULL DEFAULT '', started_at TEXT, ended_at TEXT, exit_code INTEGER,
    PRIMARY KEY (schedule, scheduled_at)
)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a schedule: due once, begun `tries` times."""

    schedule: str
    scheduled_at: datetime
    state: RunState
    tries: int
    is_begun: bool
    exit_code: int | None

    @property
    def id(self) -> str:
        return f"{self.schedule}-{self.scheduled_at:%Y%m%dT%H%M%SZ}"


class Runs:
    """The table of runs. A connection for each call: the scheduler's threads and `--list` all use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as table:
            table.execute(_TABLE)

    def add(self, schedule: str, times: Iterable[datetime], state: RunState) -> None:
        """Record runs that are due; one that is recorded already stays as it is."""
        rows = [(schedule, _text(time), state) for time in times]
        with self._open() as table:
            table.executemany("INSERT OR IGNORE INTO runs (schedule, scheduled_at, state) VALUES (?, ?, ?)", rows)

    def last_time(self, schedule: str) -> datetime | None:
        """The latest time that is recorded, whatever became of it."""
        with self._open() as table:
            (text,) = table.execute("SELECT max(scheduled_at) FROM runs WHERE schedule = ?", (schedule,)).fetchone()
        return text and datetime.fromisoformat(text)

    def all(self, schedule: str, *states: RunState) -> list[Run]:
        """Runs in these states (any, if none is named), the oldest first."""
        query = (
            "SELECT scheduled_at, state, tries, started_at IS NOT NULL, exit_code FROM runs WHERE schedule = ? "
            "ORDER BY scheduled_at"
        )
        with self._open() as table:
            rows = table.execute(query, (schedule,)).fetchall()
        runs = [
            Run(
                schedule=schedule,
                scheduled_at=datetime.fromisoformat(time),
                state=state,
                tries=tries,
                is_begun=bool(is_begun),
                exit_code=code,
            )
            for time, state, tries, is_begun, code in rows
        ]
        return [run for run in runs if not states or run.state in states]

    def next_ready(self, schedule: str, now: datetime) -> Run | None:
        """The oldest waiting run, if its pause after a failed try is over and no run of the schedule is under way."""
        waiting = self.all(schedule, "waiting", "running")
        if not waiting or any(run.state == "running" for run in waiting):
            return None
        query = "SELECT not_before FROM runs WHERE schedule = ? AND scheduled_at = ?"
        with self._open() as table:
            (not_before,) = table.execute(query, (schedule, _text(waiting[0].scheduled_at))).fetchone()
        return waiting[0] if not_before <= _text(now) else None

    def begin(self, run: Run, now: datetime) -> None:
        self._set(run, "state = 'running', tries = tries + 1, started_at = ?", _text(now))

    def end(self, run: Run, state: RunState, exit_code: int, now: datetime) -> None:
        self._set(run, "state = ?, exit_code = ?, ended_at = ?", state, exit_code, _text(now))

    def put_back(self, run: Run, exit_code: int, not_before: datetime) -> None:
        """Let a run that ended incomplete wait for its next try."""
        self._set(run, "state = 'waiting', exit_code = ?, not_before = ?", exit_code, _text(not_before))

    def drop(self, run: Run) -> None:
        self._set(run, "state = 'dropped'")

    def put_back_interrupted(self) -> None:
        """Runs of a scheduler that ended: the next one takes them up first. The interrupted try is not charged."""
        with self._open() as table:
            table.execute("UPDATE runs SET state = 'waiting', tries = tries - 1 WHERE state = 'running'")

    def _set(self, run: Run, change: str, *values: object) -> None:
        with self._open() as table:
            where = "WHERE schedule = ? AND scheduled_at = ?"
            table.execute(f"UPDATE runs SET {change} {where}", (*values, run.schedule, _text(run.scheduled_at)))

    def _open(self) -> sqlite3.Connection:
        """A transaction that is committed at the end of its `with` block."""
        return sqlite3.connect(self._path, timeout=30)


def _text(time: datetime) -> str:
    """Times as text of one length, so that they sort as times do."""
    return time.astimezone(UTC).isoformat(timespec="seconds")
