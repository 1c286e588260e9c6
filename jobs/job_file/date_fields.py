"""Date fields of a job file: `{date:%Y-%m-%d}` in `prompts` and `output`, filled in from a run's scheduled time."""

from __future__ import annotations

import re
from datetime import datetime

from jobs.job_file.cron import zone_of

_DATE = re.compile(r"\{date:([^{}]*)\}")
_FIELD = re.compile(r"\{[^{}]*\}")
_OPEN = re.compile(r"\{date:.*")


def fill_dates(location: str, scheduled_at: datetime, time_zone: str) -> str:
    """A path or URL with its `{date:%Y-%m-%d}` fields replaced by parts of the scheduled time in its time zone."""
    local = scheduled_at.astimezone(zone_of(time_zone))
    return _DATE.sub(lambda match: local.strftime(match[1]), location)


def has_dates(location: str) -> bool:
    return bool(_DATE.search(location))


def check_date_fields(location: str) -> None:
    """Raise ValueError for a field in braces that is not a date field, and for one that is the same on every day."""
    for field in [*_FIELD.findall(location), *_OPEN.findall(_FIELD.sub("", location))]:
        if not _DATE.fullmatch(field) or not _varies(field[6:-1]):
            raise ValueError(f"{field} is not a date field; allowed is {{date:FORMAT}}, such as {{date:%Y-%m-%d}}")


def _varies(form: str) -> bool:
    """Whether a format has a part of the time, and nothing that strftime does not know or no path can hold."""
    filled = datetime(2000, 1, 1).strftime(form)
    return filled != form and "%" not in filled and bool(filled) and filled.isprintable()
