"""Job files with a schedule section."""

from __future__ import annotations

from pathlib import Path

import yaml

from jobs.schedule.scheduled_job import ScheduledJob, read_scheduled_jobs


def write_scheduled(folder: Path, name: str = "job", **changes: object) -> Path:
    """A job file that is due at two on weekdays in Berlin, with changes to its fields."""
    fields = {
        "prompts": "s3://bucket/{date:%Y-%m-%d}/",
        "output": "/shared/out/{date:%Y-%m-%d}",
        "model": {"checkpoint": "toy"},
        "schedule": {"cron": "0 2 * * 1-5", "time_zone": "Europe/Berlin", "when_running": "queue"},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def scheduled_job(folder: Path, **section: object) -> ScheduledJob:
    """A job named `job` that is due at every full hour, with changes to its schedule section."""
    path = write_scheduled(folder, schedule={"cron": "0 * * * *", **section})
    (job,) = read_scheduled_jobs([str(path)], [])
    return job
