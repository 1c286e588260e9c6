"""Record the runs of a schedule that are due: each waits for its start, is skipped, or is dropped."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from itertools import takewhile

from jobs.job_file.cron import last_due, times_after
from jobs.schedule.scheduled_job import ScheduledJob
from jobs.schedule.state import RunStatus, State
from jobs.terminal.text import say

ON_TIME = timedelta(seconds=60)  # a run noticed later than this was missed
MAX_RECORDED = 2000  # runs of one schedule at once; catch_up is at most 1,000


def record_due(state: State, job: ScheduledJob, now: datetime) -> None:
    """Record all runs of `job` that became due since the last record, in one transaction."""
    schedule = job.schedule
    since = state.since(job.name, schedule.cron, schedule.time_zone, now)
    after = max(since, state.last_time(job.name) or since)
    times = times_after(schedule.cron, schedule.time_zone, after)
    due = deque(takewhile(lambda time: time <= now, times), maxlen=MAX_RECORDED)
    if due:
        state.record(job.name, _statuses(state, job, list(due), now))


def next_due(job: ScheduledJob, now: datetime) -> datetime:
    """The first time after `now` at which the job is due."""
    return next(times_after(job.schedule.cron, job.schedule.time_zone, now))


def record_last_due(state: State, job: ScheduledJob, now: datetime) -> None:
    """Record the last run that was due, unless it is on record."""
    if due := last_due(job.schedule.cron, job.schedule.time_zone, now):
        state.record(job.name, {due: "waiting"})


def _statuses(state: State, job: ScheduledJob, due: list[datetime], now: datetime) -> dict[datetime, RunStatus]:
    """The status of each due run, and of each waiting run that is dropped to make room."""
    schedule, statuses = job.schedule, dict[datetime, RunStatus]()
    unfinished = state.runs(job.name, "running", "waiting")
    is_on_time = now - due[-1] <= ON_TIME
    if is_on_time and unfinished and schedule.when_running == "skip":
        skipped = due.pop()
        statuses[skipped] = "skipped"
        say(f"{job.name}: skipped the run of {skipped:%Y-%m-%d %H:%M:%S} UTC, because the last one is still running")
    waiting = [run.scheduled_at for run in unfinished if run.status == "waiting" and not run.was_started] + due
    num_dropped = max(0, len(waiting) - schedule.catch_up - (is_on_time and not unfinished))
    if num_dropped:
        say(f"{job.name}: dropped {num_dropped:,} runs, because at most {schedule.catch_up} (catch_up) may wait")
    return statuses | {time: "dropped" if i < num_dropped else "waiting" for i, time in enumerate(waiting)}
