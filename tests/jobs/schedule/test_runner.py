"""How the runs of a schedule are started, and what becomes of a run by its exit code; no Ray."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.schedule.runner import Runner
from jobs.schedule.scheduled_job import ScheduledJob
from jobs.schedule.state import State
from tests.support.scheduled_job import scheduled_job

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Scripted(Runner):
    """A runner whose processes end with these exit codes, one after the other."""

    def __init__(self, state: State, job: ScheduledJob, codes: list[int]) -> None:
        super().__init__(state, [job], [], None, retry_seconds=0)
        self.codes = codes

    def _command(self, run: object) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({self.codes.pop(0)})"]


@pytest.mark.parametrize(
    ("codes", "ended", "worst"),
    [([0], ("done", 0, 1), 0), ([1, 0], ("done", 0, 2), 0), ([1, 1], ("failed", 1, 2), 1), ([2], ("failed", 2, 1), 2)],
)
def test_an_incomplete_run_is_retried_and_a_wrong_one_is_not(
    codes: list[int], ended: tuple[str, int, int], worst: int, tmp_path: Path
) -> None:
    state = State(tmp_path / "schedule.sqlite")
    state.record("job", {NOW: "waiting"})
    runner = Scripted(state, scheduled_job(tmp_path, max_tries=2), codes)
    while runner.step():
        pass
    (run,) = state.last_runs("job", 10)
    assert (run.status, run.exit_code, run.tries) == ended
    assert runner.worst_exit_code == worst
