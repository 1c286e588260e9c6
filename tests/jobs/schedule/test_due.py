"""Which runs are recorded as waiting, skipped or dropped; the job is due at every full hour."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.schedule.due import MAX_RECORDED, next_due, record_due, record_last_due
from jobs.schedule.state import State
from tests.support.scheduled_job import scheduled_job

NOW = datetime(2026, 11, 24, 12, 0, 1, tzinfo=UTC)  # one second after the hour: the run of noon is on time


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "schedule.sqlite")


def hours_ago(hours: float) -> datetime:
    return NOW.replace(second=0) - timedelta(hours=hours)


def statuses(state: State) -> list[str]:
    return [run.status for run in reversed(state.last_runs("job", 1000))]


def due(state: State, tmp_path: Path, *, last_looked: datetime, **section: object) -> list[str]:
    """What is on record once a scheduler that looked at `last_looked` looks again now."""
    job = scheduled_job(tmp_path, **section)
    record_due(state, job, last_looked)
    record_due(state, job, NOW)
    return statuses(state)


def start_run(state: State, at: datetime) -> None:
    state.record("job", {at: "waiting"})
    state.start(state.next_ready("job", NOW), NOW)


def test_a_run_that_is_due_waits_for_its_start(state: State, tmp_path: Path) -> None:
    assert due(state, tmp_path, last_looked=hours_ago(0.5)) == ["waiting"]
    assert due(state, tmp_path, last_looked=hours_ago(0.5)) == ["waiting"]  # recorded once, however often it is asked


def test_nothing_is_due_before_a_schedule_is_first_seen(state: State, tmp_path: Path) -> None:
    record_due(state, scheduled_job(tmp_path), NOW)

    assert statuses(state) == []


def test_another_expression_counts_from_now_and_another_catch_up_from_before(state: State, tmp_path: Path) -> None:
    record_due(state, scheduled_job(tmp_path), hours_ago(2.5))
    record_due(state, scheduled_job(tmp_path, cron="0,30 * * * *"), NOW)
    assert statuses(state) == []

    assert due(state, tmp_path, last_looked=hours_ago(2.5), catch_up=5) == ["waiting"] * 3


def test_a_job_that_was_not_scheduled_for_a_while_counts_from_its_return(state: State, tmp_path: Path) -> None:
    record_due(state, scheduled_job(tmp_path), hours_ago(2.5))

    assert state.forget_others(["another"]) == ["job"]

    record_due(state, scheduled_job(tmp_path), NOW)
    assert statuses(state) == []


def test_missed_runs_are_made_up_for_to_the_limit_and_the_oldest_are_dropped(state: State, tmp_path: Path) -> None:
    found = due(state, tmp_path, last_looked=hours_ago(4.5), catch_up=2)

    assert found == ["dropped", "dropped", "waiting", "waiting", "waiting"]


def test_without_catching_up_only_the_run_of_now_is_made(state: State, tmp_path: Path) -> None:
    assert due(state, tmp_path, last_looked=hours_ago(2.5), catch_up=0) == ["dropped", "dropped", "waiting"]


def test_a_schedule_of_every_second_that_was_away_for_a_day_is_recorded_in_part(state: State, tmp_path: Path) -> None:
    found = due(state, tmp_path, last_looked=hours_ago(24), cron="* * * * * *", catch_up=3)

    assert found == ["dropped"] * (1000 - 4) + ["waiting"] * 4  # the latest thousand of
    assert len(state.runs("job", "dropped", "waiting")) == MAX_RECORDED


@pytest.mark.parametrize(("when_running", "expected"), [("skip", "skipped"), ("queue", "waiting")])
def test_a_run_that_is_due_while_the_last_one_runs_is_skipped_or_queued(
    when_running: str, expected: str, state: State, tmp_path: Path
) -> None:
    start_run(state, hours_ago(1))

    assert due(state, tmp_path, last_looked=hours_ago(0.5), when_running=when_running) == ["running", expected]
    assert state.next_ready("job", NOW) is None


def test_a_queue_holds_no_more_than_may_be_caught_up(state: State, tmp_path: Path) -> None:
    start_run(state, hours_ago(3))
    state.record("job", {hours_ago(2): "waiting", hours_ago(1): "waiting"})

    found = due(state, tmp_path, last_looked=hours_ago(0.5), when_running="queue", catch_up=2)

    assert found == ["running", "dropped", "waiting", "waiting"]


def test_a_run_whose_scheduler_was_killed_is_continued_first_and_is_not_dropped(state: State, tmp_path: Path) -> None:
    start_run(state, hours_ago(3))
    state.put_back_interrupted()

    assert due(state, tmp_path, last_looked=hours_ago(2.5), catch_up=0) == ["waiting", "dropped", "dropped", "skipped"]
    assert state.next_ready("job", NOW).scheduled_at == hours_ago(3)
    assert state.next_ready("job", NOW).tries == 0


@pytest.mark.parametrize("hours", [0, 1, 2])
def test_a_record_that_is_broken_off_anywhere_is_made_whole_by_the_next(
    hours: int, state: State, tmp_path: Path
) -> None:
    """Runs that are due together are recorded together, or a crash in between would lose some or keep too many."""
    job = scheduled_job(tmp_path, catch_up=1)
    record_due(state, job, hours_ago(2.5))
    broken = sqlite3.connect(tmp_path / "schedule.sqlite")
    moment = hours_ago(hours).isoformat()
    broken.execute(
        f"CREATE TRIGGER crash BEFORE INSERT ON runs WHEN new.scheduled_at = '{moment}' "
        "BEGIN SELECT RAISE(ABORT, 'a crash'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="a crash"):
        record_due(state, job, NOW)
    assert statuses(state) == []

    broken.execute("DROP TRIGGER crash")
    record_due(State(tmp_path / "schedule.sqlite"), job, NOW)
    assert statuses(state) == ["dropped", "waiting", "waiting"]


def test_the_last_run_that_was_due_is_recorded_once(state: State, tmp_path: Path) -> None:
    job = scheduled_job(tmp_path)
    record_last_due(state, job, NOW)
    (run,) = state.runs("job", "waiting")
    state.start(run, NOW)
    state.end(run, "done", 0, NOW)

    record_last_due(state, job, NOW + timedelta(minutes=59))

    assert statuses(state) == ["done"]
    assert next_due(job, NOW) == hours_ago(-1)
