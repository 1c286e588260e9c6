"""The scheduler's state file (SQLite): when each schedule was first seen, and every run that was due.

Each method is one transaction, so the file stays consistent if the process is killed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jobs.schedule.scheduled_job import ScheduleError

RunStatus = Literal["waiting", "running", "done", "failed", "skipped", "dropped"]

_TABLES = """
CREATE TABLE IF NOT EXISTS schedules (
    name TEXT PRIMARY KEY, cron TEXT NOT NULL, time_zone TEXT NOT NULL, since TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    schedule TEXT NOT NULL, scheduled_at TEXT NOT NULL, status TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    not_before TEXT NOT NULL DEFAULT '', started_at TEXT, ended_at TEXT, exit_code INTEGER,
    PRIMARY KEY (schedule, scheduled_at)
);
CREATE INDEX IF NOT EXISTS runs_by_status ON runs (schedule, status, scheduled_at);
"""
_COLUMNS = "scheduled_at, status, tries, started_at IS NOT NULL, exit_code, not_before"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a schedule: due once, started `tries` times."""

    schedule: str
    scheduled_at: datetime
    status: RunStatus
    tries: int
    was_started: bool
    exit_code: int | None
    not_before: datetime | None

    @property
    def id(self) -> str:
        return f"{self.schedule}-{self.scheduled_at:%Y%m%dT%H%M%SZ}"


class State:
    """An open state file. Raises ScheduleError if the file is something else."""

    def __init__(self, path: Path) -> None:
        try:
            self._connection = sqlite3.connect(path, timeout=30)  # `--list` reads while the scheduler writes
            self._connection.executescript(_TABLES)
        except sqlite3.Error as error:
            raise ScheduleError(f"--state: {path} is not a state file of a scheduler: {error}") from error

    def since(self, schedule: str, cron: str, time_zone: str, now: datetime) -> datetime:
        """When this expression was first seen; `now` if it is new. Earlier times are not due."""
        with self._connection as table:
            table.execute(
                "INSERT INTO schedules VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "cron = excluded.cron, time_zone = excluded.time_zone, since = excluded.since "
                "WHERE (cron, time_zone) != (excluded.cron, excluded.time_zone)",
                (schedule, cron, time_zone, _text(now)),
            )
            (since,) = table.execute("SELECT since FROM schedules WHERE name = ?", (schedule,)).fetchone()
        return datetime.fromisoformat(since)

    def forget_others(self, schedules: Collection[str]) -> list[str]:
        """Forget when all other schedules were first seen. Returns their names. Their runs stay on record."""
        with self._connection as table:
            names = [name for (name,) in table.execute("SELECT name FROM schedules") if name not in schedules]
            table.executemany("DELETE FROM schedules WHERE name = ?", [(name,) for name in names])
        return names

    def record(self, schedule: str, runs: Mapping[datetime, RunStatus]) -> None:
        """Record due runs. A run that is already on record changes only if it is waiting."""
        rows = [(schedule, _text(time), status) for time, status in runs.items()]
        with self._connection as table:
            table.executemany(
                "INSERT INTO runs (schedule, scheduled_at, status) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET status = excluded.status WHERE runs.status = 'waiting'",
                rows,
            )

    def last_time(self, schedule: str) -> datetime | None:
        """The latest scheduled time on record."""
        query = "SELECT max(scheduled_at) FROM runs WHERE schedule = ?"
        (text,) = self._connection.execute(query, (schedule,)).fetchone()
        return datetime.fromisoformat(text) if text else None

    def runs(self, schedule: str, *statuses: RunStatus) -> list[Run]:
        """The runs with one of these statuses, the oldest first."""
        marks = ", ".join("?" * len(statuses))
        query = f"SELECT {_COLUMNS} FROM runs WHERE schedule = ? AND status IN ({marks}) ORDER BY scheduled_at"
        return [_run_of(schedule, row) for row in self._connection.execute(query, (schedule, *statuses))]

    def last_runs(self, schedule: str, count: int) -> list[Run]:
        """The latest `count` runs, the latest first."""
        query = f"SELECT {_COLUMNS} FROM runs WHERE schedule = ? ORDER BY scheduled_at DESC LIMIT ?"
        return [_run_of(schedule, row) for row in self._connection.execute(query, (schedule, count))]

    def next_ready(self, schedule: str, now: datetime) -> Run | None:
        """The oldest waiting run; None while a run of the schedule is running or paused before a retry."""
        unfinished = self.runs(schedule, "waiting", "running")
        if not unfinished or any(run.status == "running" for run in unfinished):
            return None
        oldest = unfinished[0]
        return oldest if oldest.not_before is None or oldest.not_before <= now else None

    def start(self, run: Run, now: datetime) -> None:
        self._set(run, "status = 'running', tries = tries + 1, started_at = ?", _text(now))

    def end(self, run: Run, status: RunStatus, exit_code: int, now: datetime) -> None:
        self._set(run, "status = ?, exit_code = ?, ended_at = ?", status, exit_code, _text(now))

    def put_back(self, run: Run, exit_code: int, not_before: datetime) -> None:
        """Make an incomplete run wait for its next try."""
        self._set(run, "status = 'waiting', exit_code = ?, not_before = ?", exit_code, _text(not_before))

    def put_back_interrupted(self) -> None:
        """Make runs wait that were running when the last scheduler ended. The interrupted try does not count."""
        with self._connection as table:
            table.execute("UPDATE runs SET status = 'waiting', tries = tries - 1 WHERE status = 'running'")

    def _set(self, run: Run, change: str, *values: object) -> None:
        with self._connection as table:
            where = "WHERE schedule = ? AND scheduled_at = ?"
            table.execute(f"UPDATE runs SET {change} {where}", (*values, run.schedule, _text(run.scheduled_at)))


def _run_of(schedule: str, row: tuple[str, RunStatus, int, int, int | None, str]) -> Run:
    scheduled_at, status, tries, was_started, exit_code, not_before = row
    return Run(
        schedule=schedule,
        scheduled_at=datetime.fromisoformat(scheduled_at),
        status=status,
        tries=tries,
        was_started=bool(was_started),
        exit_code=exit_code,
        not_before=datetime.fromisoformat(not_before) if not_before else None,
    )


def _text(time: datetime) -> str:
    """A time as text of fixed length, which sorts like the time."""
    return time.astimezone(UTC).isoformat(timespec="seconds")
