"""A job at one scheduled time: its date fields are filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from actors.errors import one_line
from jobs.job_file.cron import last_due
from jobs.job_file.date_fields import fill_dates
from jobs.job_file.errors import JobFileError
from jobs.job_file.spec import JobSpec


def dated(spec: JobSpec, scheduled_at: str | None = None) -> JobSpec:
    """The job with its date fields filled in, from the given time or the last time at which the schedule was due.

    So the same command resumes last night's run until the next run is due. A time without an offset is in the
    schedule's time zone. Raises JobFileError if `scheduled_at` is not a time.
    """
    if spec.schedule is None or not (spec.has_dates or scheduled_at):
        if scheduled_at:
            raise JobFileError(f"--scheduled-at needs a schedule section in the job file, got {one_line(scheduled_at)}")
        return spec
    time = scheduled_time(spec, scheduled_at)
    filled = {key: fill_dates(getattr(spec, key), time, spec.schedule.time_zone) for key in ("prompts", "output")}
    return spec.model_copy(update=filled)


def scheduled_time(spec: JobSpec, scheduled_at: str | None = None) -> datetime:
    """The given time (ISO 8601), or the last time at which the schedule was due. Raises JobFileError."""
    assert spec.schedule is not None
    if scheduled_at is None:
        time = last_due(spec.schedule.cron, spec.schedule.time_zone, datetime.now(UTC))
        if time is None:
            raise JobFileError(f"schedule.cron: no date in the last 50 years matches, got {spec.schedule.cron!r}")
        return time
    try:
        time = datetime.fromisoformat(scheduled_at)
        if not 1970 <= time.year < 9999:  # else no time of some zones
            raise ValueError("out of range")
    except ValueError as error:
        raise JobFileError(
            f"--scheduled-at must be a time such as 2026-11-24T02:00, got {one_line(scheduled_at)}"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(spec.schedule.time_zone))
