"""`janus-batch schedule --list`: when each job runs next, and how its last runs went."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from jobs.job_file.cron import times_after
from jobs.schedule.scheduled_job import read_scheduled_jobs
from jobs.schedule.state import State

NUM_NEXT, NUM_LAST = 3, 10


def list_runs(job_files: Sequence[str], settings: Sequence[str], state_file: Path) -> int:
    """Print a block for each job; always returns 0."""
    state = State(state_file) if state_file.exists() else None
    for job in read_scheduled_jobs(job_files, settings):
        schedule, zone = job.schedule, ZoneInfo(job.schedule.time_zone)
        click.echo(f"{job.name}  ({schedule.cron} in {schedule.time_zone}; {schedule.when_running}, {job.job_file})")
        times = times_after(schedule.cron, schedule.time_zone, datetime.now(UTC))
        for time in reversed(list(islice(times, NUM_NEXT))):  # the latest first, like the runs below
            click.echo(f"  {time.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}  next")
        for run in state.last_runs(job.name, NUM_LAST) if state else []:
            code = "" if run.exit_code is None else f", exit code {run.exit_code}"
            tries = f", {run.tries} tries" if run.tries > 1 else ""
            click.echo(f"  {run.scheduled_at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}  {run.status}{code}{tries}")
    return 0
