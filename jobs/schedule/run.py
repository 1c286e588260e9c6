"""`janus-batch schedule`: run jobs on their schedules, and make up for missed runs.

Each due run is recorded before it is started. This process can end at any moment without losing or doubling a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout

from jobs.schedule.due import next_due, record_due, record_last_due
from jobs.schedule.runner import Runner
from jobs.schedule.scheduled_job import ScheduledJob, ScheduleError, read_scheduled_jobs
from jobs.schedule.state import State
from jobs.terminal.text import say

POLL_SECONDS = 0.2


def schedule(
    job_files: Sequence[str],
    settings: Sequence[str],
    *,
    address: str | None,
    state_file: Path,
    is_once: bool,
    acceptance: Sequence[str] = (),
) -> int:
    """Run the jobs when they are due, until this process is stopped. With `is_once`, run what was due last and return.

    `acceptance`: options of each run that say what its output has to be. Returns the exit code. Raises JobFileError,
    and ScheduleError if the state file cannot be used.
    """
    jobs = read_scheduled_jobs(job_files, settings)
    with _opened(state_file) as state:
        state.put_back_interrupted()
        runner = Runner(state, jobs, settings, address, acceptance=acceptance)
        return _run_once(jobs, state, runner) if is_once else _run_until_stopped(jobs, state, runner)


def default_state_file() -> Path:
    """The state file if the user names none: below XDG_STATE_HOME or ~/.local/state. Raises ScheduleError."""
    folder = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if folder.startswith("~"):  # a user without a home folder, as in some containers
        raise ScheduleError("--state: this user has no home folder; name a file, or set HOME")
    return Path(folder) / "janus-batch" / "schedule.sqlite"


def _run_until_stopped(jobs: list[ScheduledJob], state: State, runner: Runner) -> int:
    """Record runs as they become due, and run them. Ends with KeyboardInterrupt, on Ctrl-C or SIGTERM."""
    for name in state.forget_others([job.name for job in jobs]):
        say(f"{name}: no longer scheduled")
    for job in jobs:
        _introduce(job)
    upcoming = {job.name: datetime.min.replace(tzinfo=UTC) for job in jobs}
    try:
        while True:
            now = datetime.now(UTC)
            for job in jobs:
                if upcoming[job.name] <= now:
                    record_due(state, job, now)
                    upcoming[job.name] = next_due(job, now)
            runner.step()
            time.sleep(POLL_SECONDS)
    finally:
        runner.stop()


def _run_once(jobs: list[ScheduledJob], state: State, runner: Runner) -> int:
    """Run each job's last due run unless it is on record, and all waiting runs. Returns the worst exit code."""
    for job in jobs:
        record_last_due(state, job, datetime.now(UTC))
    try:
        while runner.step():
            time.sleep(POLL_SECONDS)
    finally:
        runner.stop()
    return runner.worst_exit_code


def _introduce(job: ScheduledJob) -> None:
    schedule = job.schedule
    time = next_due(job, datetime.now(UTC)).astimezone(ZoneInfo(schedule.time_zone))
    say(f"{job.name}: {schedule.cron} in {schedule.time_zone}, next {time:%Y-%m-%d %H:%M:%S %Z}")


@contextmanager
def _opened(state_file: Path) -> Iterator[State]:
    """The state file, locked against other schedulers."""
    lock = FileLock(f"{state_file}.lock", timeout=0)
    try:
        state_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ScheduleError(
            f"--state: another scheduler uses {state_file}; stop it, or give this one a file of its own"
        ) from None
    except OSError as error:
        raise ScheduleError(f"--state: {state_file} cannot be written: {error}") from error
    with lock:
        yield State(state_file)
