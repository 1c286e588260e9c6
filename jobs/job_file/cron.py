"""Times of a schedule: a cron expression as cron reads it, turned into triggers of APScheduler, and the date fields.

APScheduler counts weekdays from Monday and wants all fields to match; cron counts from Sunday and, where both the day
of the month and the weekday are restricted, takes days on which either matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from apscheduler.triggers.base import BaseTrigger

FIELDS = ("second", "minute", "hour", "day", "month", "day_of_week")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DATE = re.compile(r"\{date:([^{}]*)\}")
_FIELD = re.compile(r"\{[^{}]*\}")

# How far to look back for the last time a schedule was due: an hourly one is found in the first window.
WINDOWS = (timedelta(minutes=2), timedelta(hours=2), timedelta(days=2), timedelta(days=63), timedelta(days=1500))


def cron_trigger(cron: str, time_zone: str) -> BaseTrigger:
    """The trigger of `minute hour day month weekday`, with seconds in front where there are six fields.

    Raises ValueError for what is no such expression or no time zone of the system's or Python's database.
    """
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger

    parts = cron.split()
    if len(parts) not in (5, 6):
        raise ValueError("must have five fields (minute hour day month weekday), or six with seconds in front")
    fields = dict(zip(FIELDS, ["0", *parts][-6:], strict=True))
    fields["day_of_week"] = _weekdays(fields["day_of_week"])
    zone = _zone(time_zone)
    try:
        if fields["day"].startswith("*") or fields["day_of_week"].startswith("*"):
            return CronTrigger(**fields, timezone=zone)
        either = [CronTrigger(**{**fields, other: "*"}, timezone=zone) for other in ("day", "day_of_week")]
    except ValueError as error:
        raise ValueError(f"is not a cron expression: {error}") from error
    return OrTrigger(either)


def times_after(trigger: BaseTrigger, start: datetime) -> Iterator[datetime]:
    """The times (UTC) after `start` at which a trigger is due."""
    while found := trigger.get_next_fire_time(None, start.astimezone(UTC) + timedelta(microseconds=1)):
        start = found.astimezone(UTC)
        yield start


def last_due(trigger: BaseTrigger, now: datetime) -> datetime | None:
    """The last time (UTC) at or before `now` at which a trigger was due; None if that is years ago."""
    for window in WINDOWS:
        found = None
        for time in times_after(trigger, now - window):
            if time > now:
                break
            found = time
        if found:
            return found
    return None


def fill_dates(place: str, scheduled_at: datetime, time_zone: str) -> str:
    """A path or URL with its `{date:%Y-%m-%d}` fields replaced by parts of the scheduled time in its time zone."""
    local = scheduled_at.astimezone(_zone(time_zone))
    return _DATE.sub(lambda match: local.strftime(match[1]), place)


def has_dates(place: str) -> bool:
    return bool(_DATE.search(place))


def check_fields(place: str) -> None:
    """Raise ValueError for a field in braces that is no date."""
    for field in _FIELD.findall(place):
        if not _DATE.fullmatch(field) or not datetime(2000, 1, 1).strftime(field[6:-1]):
            raise ValueError(f"{field} is no field; allowed is {{date:FORMAT}}, such as {{date:%Y-%m-%d}}")


def _weekdays(field: str) -> str:
    """Cron's weekday numbers (0 and 7 are Sunday) as names; a range across the weekend as its days."""

    def days(part: str) -> str:
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if not re.fullmatch("[0-7]", first) or (dash and not re.fullmatch("[0-7]", last)):
            return part
        stop = int(last) if dash else (6 if slash else int(first))
        numbers = range(int(first), stop + 1, int(step) if slash else 1)
        if not numbers:
            raise ValueError(f"weekdays must rise from left to right, got {part}")
        return ",".join(dict.fromkeys(WEEKDAYS[number] for number in numbers))

    return ",".join(days(part) for part in field.split(","))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no such time zone: {name} (allowed: names such as UTC and Europe/Berlin)") from error
