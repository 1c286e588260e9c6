"""`janus-batch schedule --list`: when each job runs next and how its last runs went."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from jobs.job_file.cron import cron_trigger, times_after
from jobs.schedule.run import read_scheduled_jobs
from jobs.schedule.state import Runs

NUM_NEXT, NUM_LAST = 3, 10


def list_runs(job_files: Sequence[str], settings: Sequence[str], state: Path) -> int:
    """Print a block for each job; always 0."""
    for job in read_scheduled_jobs(job_files, settings):
        section = job.spec.schedule
        assert section is not None
        zone = ZoneInfo(section.time_zone)
        click.echo(f"{job.name}  ({section.cron} in {section.time_zone}; {section.when_running}, {job.job_file})")
        times = times_after(cron_trigger(section.cron, section.time_zone), datetime.now(UTC))
        for time in reversed(list(islice(times, NUM_NEXT))):  # the latest first, as of the runs below
            click.echo(f"  {time.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}  next")
        for run in reversed(Runs(state).all(job.name)[-NUM_LAST:] if state.exists() else []):
            code = "" if run.exit_code is None else f", exit code {run.exit_code}"
            tries = f", {run.tries} tries" if run.tries > 1 else ""
            click.echo(f"  {run.scheduled_at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}  {run.state}{code}{tries}")
    return 0
