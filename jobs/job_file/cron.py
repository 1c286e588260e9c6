"""Times of a schedule: a cron expression in a time zone, read as Debian's cron reads it.

`cronsim` parses the expression and finds the minutes. When clocks change, it does what cron does: a skipped time is due
right after the change, a repeated time is due once. This file adds named time zones, seconds, and helpful errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from cronsim import CronSim

ALLOWED = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, and a day that exists in the month",
    "month": "1-12 or jan-dec",
    "day-of-week": "0-7 or sun-sat, with ascending ranges: 5-7 is Friday to Sunday",
}


def check_cron(cron: str, time_zone: str) -> None:
    """Raise ValueError unless `cron` is valid and matches a date, and `time_zone` exists."""
    if next(times_after(cron, time_zone, datetime.now(UTC)), None) is None:
        raise ValueError("matches no date in the next 50 years")


def times_after(cron: str, time_zone: str, start: datetime) -> Iterator[datetime]:
    """The times (UTC) after `start` at which `minute hour day month weekday` is due, in order.

    A sixth field in front is the second. Raises ValueError for a bad expression or time zone.
    """
    minutes, seconds = _parse(cron, time_zone, start - timedelta(minutes=1))
    for minute in minutes:
        for second in seconds:
            time = minute.astimezone(UTC) + timedelta(seconds=second)
            if time > start:
                start = time
                yield time


def last_due(cron: str, time_zone: str, now: datetime) -> datetime | None:
    """The last time (UTC) at or before `now` at which the expression was due; None if there is none in 50 years."""
    minutes, _ = _parse(cron, time_zone, (now + timedelta(seconds=1)).replace(microsecond=0), reverse=True)
    for minute in minutes:
        times = times_after(cron, time_zone, minute - timedelta(seconds=1))
        if due := list(takewhile(lambda time: time <= now, times)):
            return due[-1]
    return None


def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name. Raises ValueError if it does not exist."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; allowed are names such as UTC and Europe/Berlin") from error


def _parse(cron: str, time_zone: str, start: datetime, *, reverse: bool = False) -> tuple[CronSim, list[int]]:
    """The matching minutes from `start` on, and the seconds in each. With six fields, cronsim ignores clock changes."""
    from cronsim import CronSim, CronSimError  # late: a job without a schedule renders without it

    fields, zone = cron.split(), zone_of(time_zone)
    if len(fields) not in (5, 6):
        raise ValueError("must have five fields (minute hour day month weekday), or six with seconds in front")
    try:
        seconds = CronSim(cron, start).seconds
        return CronSim(" ".join(fields[-5:]), start.astimezone(zone), reverse=reverse), sorted(seconds)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        raise ValueError(f"the {field} is not valid; allowed is {ALLOWED[field]}") from error
    except ValueError as error:  # from int(), for a number of thousands of digits
        raise ValueError("a number is too long") from error
