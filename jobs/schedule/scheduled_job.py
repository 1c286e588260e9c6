"""The jobs of one `janus-batch schedule` command: job files with a schedule section and different names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.errors import InputError
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import read_job_file
from jobs.job_file.sections.running import ScheduleSection
from jobs.job_file.spec import JobSpec


class ScheduleError(InputError):
    """Jobs that cannot be scheduled together, or a state file that cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledJob:
    """A job file, its content, and the schedule in it."""

    job_file: Path
    spec: JobSpec
    schedule: ScheduleSection

    @property
    def name(self) -> str:
        return self.spec.name or self.job_file.stem


def read_scheduled_jobs(job_files: Sequence[str], settings: Sequence[str]) -> list[ScheduledJob]:
    """Read the job files. Raises JobFileError, and ScheduleError for two jobs of one name."""
    jobs = [_read_scheduled_job(Path(path), settings) for path in job_files]
    seen: dict[str, Path] = {}
    for job in jobs:
        if job.name in seen:
            raise ScheduleError(f"{seen[job.name]} and {job.job_file} are both named {job.name}; rename one of them")
        seen[job.name] = job.job_file
    return jobs


def _read_scheduled_job(job_file: Path, settings: Sequence[str]) -> ScheduledJob:
    spec = read_job_file(str(job_file), list(settings))
    if spec.schedule is None:
        raise JobFileError(f"job file {job_file} has no schedule section; at least schedule.cron is required")
    return ScheduledJob(job_file=job_file, spec=spec, schedule=spec.schedule)
