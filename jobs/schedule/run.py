"""`janus-batch schedule`: run jobs at the times their job files name, and make up for what was missed.

APScheduler wakes this process when a run is due and remembers its next time in the state file, where the runs stand,
too. A run that is due is recorded first and begun from the record, so it is neither lost nor doubled when this process
ends at any moment.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from actors.errors import InputError
from jobs.job_file.cron import cron_trigger, last_due, times_after
from jobs.job_file.spec import JobFileError, JobSpec, read_job_file
from jobs.schedule.runner import Runner
from jobs.schedule.state import Runs
from jobs.terminal.view import say

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

ON_TIME_SECONDS = 60.0  # a run that is noticed later than this was missed
POLL_SECONDS = 0.2


class ScheduleError(InputError):
    """Jobs that cannot be scheduled together, or a state file that another scheduler uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledJob:
    """A job file and what it asks for."""

    job_file: Path
    spec: JobSpec

    @property
    def name(self) -> str:
        return self.spec.name or self.job_file.stem


def schedule(
    job_files: Sequence[str], settings: Sequence[str], *, address: str | None, state: Path, is_once: bool
) -> int:
    """Run the jobs when they are due, until this process is ended; with `is_once`, what is due now. The exit code."""
    jobs = read_scheduled_jobs(job_files, settings)
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{state}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ScheduleError(
            f"--state: another scheduler uses {state}; end it, or give this one a file of its own"
        ) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what `kill` and systemd send is a Ctrl-C, too
    with lock:
        runs = Runs(state)
        runs.put_back_interrupted()
        runner = Runner(runs, {job.name: (job.job_file, job.spec) for job in jobs}, settings, address)
        return _run_once(jobs, runs, runner) if is_once else _run_for_ever(jobs, runs, runner, state)


def read_scheduled_jobs(job_files: Sequence[str], settings: Sequence[str]) -> list[ScheduledJob]:
    """The jobs, each with a schedule and a name of its own. Raises JobFileError or ScheduleError."""
    jobs = [ScheduledJob(job_file=Path(path), spec=read_job_file(path, list(settings))) for path in job_files]
    names: dict[str, Path] = {}
    for job in jobs:
        if job.spec.schedule is None:
            raise JobFileError(f"job file {job.job_file} has no schedule section; it needs at least schedule.cron")
        if job.name in names:
            raise ScheduleError(
                f"{names[job.name]} and {job.job_file} are both called {job.name}; name one differently"
            )
        names[job.name] = job.job_file
    return jobs


def record_due(state: str, name: str, cron: str, time_zone: str, when_running: str, catch_up: int, since: str) -> None:
    """Record the runs of a schedule that became due since the last record: to be run, skipped or dropped.

    APScheduler calls this by its name, from what stands in the state file; so its arguments are plain text and numbers.
    """
    runs, now = Runs(Path(state)), datetime.now(UTC)
    after = max(datetime.fromisoformat(since), runs.last_time(name) or datetime.min.replace(tzinfo=UTC))
    due = list(itertools.takewhile(lambda time: time <= now, times_after(cron_trigger(cron, time_zone), after)))
    if not due:
        return
    is_on_time = now - due[-1] <= timedelta(seconds=ON_TIME_SECONDS)
    is_busy = bool(runs.all(name, "running", "waiting"))
    if is_on_time and is_busy and when_running == "skip":
        say(f"{name}: the run of {due[-1]:%Y-%m-%d %H:%M:%S} UTC is skipped, the last one still runs")
        runs.add(name, [due[-1]], "skipped")
    runs.add(name, due, "waiting")
    room = catch_up + (is_on_time and not is_busy)
    waiting = [run for run in runs.all(name, "waiting") if not run.is_begun]
    for run in waiting[: max(0, len(waiting) - room)]:
        say(f"{run.id}: dropped, no more than catch_up = {catch_up} runs wait")
        runs.drop(run)


def _run_for_ever(jobs: list[ScheduledJob], runs: Runs, runner: Runner, state: Path) -> int:
    """Wait for runs to become due and keep them running; ends by an exception: Ctrl-C, or SIGTERM made into one."""
    scheduler = _start_scheduler(jobs, state)
    try:
        while True:
            runner.step()
            time.sleep(POLL_SECONDS)
    finally:
        scheduler.shutdown(wait=False)
        runner.stop()


def _run_once(jobs: list[ScheduledJob], runs: Runs, runner: Runner) -> int:
    """The last run that was due of each job, unless it is recorded, and what is waiting; the worst exit code."""
    for job in jobs:
        section = job.spec.schedule
        assert section is not None
        due = last_due(cron_trigger(section.cron, section.time_zone), datetime.now(UTC))
        runs.add(job.name, [due] if due else [], "waiting")
    try:
        while runner.step():
            time.sleep(POLL_SECONDS)
    finally:
        runner.stop()
    return runner.worst_exit_code


def _start_scheduler(jobs: list[ScheduledJob], state: Path) -> BackgroundScheduler:
    """APScheduler with a durable record of each job's next time; a job that it knows keeps its, even a past one."""
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from apscheduler.schedulers.background import BackgroundScheduler

    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{state}")},
        job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        timezone="UTC",
    )
    scheduler.start(paused=True)
    for known in scheduler.get_jobs():
        if known.id not in {job.name for job in jobs}:
            say(f"{known.id}: no longer scheduled")
            known.remove()
    for job in jobs:
        _schedule_job(scheduler, job, state)
    scheduler.resume()
    return scheduler


def _schedule_job(scheduler: BackgroundScheduler, job: ScheduledJob, state: Path) -> None:
    section = job.spec.schedule
    assert section is not None
    wanted = {"state": str(state), "name": job.name, **section.model_dump(exclude={"max_tries"})}
    known = scheduler.get_job(job.name)
    since = known.kwargs["since"] if known else _now()
    if known and (known.kwargs["cron"], known.kwargs["time_zone"]) == (section.cron, section.time_zone):
        known.modify(kwargs={**wanted, "since": since})
    else:
        trigger = cron_trigger(section.cron, section.time_zone)
        wanted = {**wanted, "since": _now()}  # times of another expression are not made up for
        known = scheduler.add_job(record_due, trigger, id=job.name, kwargs=wanted, replace_existing=True)
    say(f"{job.name}: {section.cron} in {section.time_zone}, next {known.next_run_time:%Y-%m-%d %H:%M:%S %Z}")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def default_state() -> Path:
    """Where the state is kept if no file is named: the place for such files in the person's home folder."""
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(folder) / "janus-batch" / "schedule.sqlite"
