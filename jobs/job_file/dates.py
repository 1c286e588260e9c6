"""The job of one scheduled time: its date fields filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from jobs.job_file.cron import last_due
from jobs.job_file.date_fields import fill_dates
from jobs.job_file.errors import JobFileError
from jobs.job_file.spec import JobSpec


def dated(spec: JobSpec, scheduled_at: str | None = None) -> JobSpec:
    """The job of one scheduled time: its date fields filled in, from the time given or the last that was due.

    So the same command goes on with last night's run until the next is due. A time without an offset is one of the
    schedule's time zone. Raises JobFileError for a time that is none.
    """
    if spec.schedule is None or not (spec.has_dates or scheduled_at):
        if scheduled_at:
            raise JobFileError(f"--scheduled-at {scheduled_at}: the job file has no schedule section")
        return spec
    time = scheduled_time(spec, scheduled_at)
    filled = {key: fill_dates(getattr(spec, key), time, spec.schedule.time_zone) for key in ("prompts", "output")}
    return spec.model_copy(update=filled)


def scheduled_time(spec: JobSpec, scheduled_at: str | None = None) -> datetime:
    """The time given (ISO 8601), or the last one at which the schedule was due. Raises JobFileError."""
    assert spec.schedule is not None
    if scheduled_at is None:
        time = last_due(spec.schedule.cron, spec.schedule.time_zone, datetime.now(UTC))
        if time is None:
            raise JobFileError(f"schedule.cron: no date in the last 50 years matches, got {spec.schedule.cron!r}")
        return time
    try:
        time = datetime.fromisoformat(scheduled_at)
    except ValueError as error:
        raise JobFileError(f"--scheduled-at must be a time such as 2026-11-24T02:00, got {scheduled_at}") from error
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(spec.schedule.time_zone))
