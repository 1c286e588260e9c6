"""Date fields of a job file: `{date:%Y-%m-%d}` in `prompts` and `output`, filled in from a run's scheduled time."""

from __future__ import annotations

import re
from datetime import datetime

from jobs.job_file.cron import zone_of

_DATE = re.compile(r"\{date:([^{}]*)\}")
_FIELD = re.compile(r"\{[^{}]*\}")


def fill_dates(location: str, scheduled_at: datetime, time_zone: str) -> str:
    """A path or URL with its `{date:%Y-%m-%d}` fields replaced by parts of the scheduled time in its time zone."""
    local = scheduled_at.astimezone(zone_of(time_zone))
    return _DATE.sub(lambda match: local.strftime(match[1]), location)


def has_dates(location: str) -> bool:
    return bool(_DATE.search(location))


def check_date_fields(location: str) -> None:
    """Raise ValueError for a field in braces that is not a date field."""
    for field in _FIELD.findall(location):
        if not _DATE.fullmatch(field) or not datetime(2000, 1, 1).strftime(field[6:-1]):
            raise ValueError(f"{field} is not a date field; allowed is {{date:FORMAT}}, such as {{date:%Y-%m-%d}}")
