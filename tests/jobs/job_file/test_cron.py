"""Times of schedules, held against dates that a calendar knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from jobs.job_file.cron import check_fields, cron_trigger, fill_dates, last_due, times_after

FRIDAY = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def first(cron: str, count: int, *, zone: str = "UTC", start: datetime = FRIDAY) -> list[str]:
    return [f"{time:%a %d.%m. %H:%M:%S}" for time in islice(times_after(cron_trigger(cron, zone), start), count)]


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("0 2 * * *", ["Sat 21.11. 02:00:00", "Sun 22.11. 02:00:00"]),
        ("*/20 * * * *", ["Fri 20.11. 12:20:00", "Fri 20.11. 12:40:00"]),
        ("*/30 * * * * *", ["Fri 20.11. 12:00:30", "Fri 20.11. 12:01:00"]),
        ("0 2 * * 0", ["Sun 22.11. 02:00:00", "Sun 29.11. 02:00:00"]),
        ("0 2 * * 7", ["Sun 22.11. 02:00:00", "Sun 29.11. 02:00:00"]),
        ("0 2 * * 1-5", ["Mon 23.11. 02:00:00", "Tue 24.11. 02:00:00"]),
        ("0 2 * * mon,6", ["Sat 21.11. 02:00:00", "Mon 23.11. 02:00:00"]),
        ("0 2 24 * 0", ["Sun 22.11. 02:00:00", "Tue 24.11. 02:00:00"]),  # either day, as cron has it
    ],
)
def test_expressions_mean_what_cron_means(cron: str, times: list[str]) -> None:
    assert first(cron, 2) == times


def test_times_follow_the_clocks_of_the_time_zone() -> None:
    assert first("0 2 * * *", 1, zone="Europe/Berlin") == ["Sat 21.11. 01:00:00"]
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert first("0 2 * * *", 1, zone="Europe/Berlin", start=summer) == ["Thu 02.07. 00:00:00"]


def test_a_night_without_the_hour_has_its_run_all_the_same() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert first("30 2 * * *", 2, zone="Europe/Berlin", start=before) == ["Sun 29.03. 01:30:00", "Mon 30.03. 00:30:00"]


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("0 2 * *", "UTC", "must have five fields"),
        ("0 25 * * *", "UTC", "is not a cron expression: .*25"),
        ("0 2 * * 5-1", "UTC", "weekdays must rise from left to right, got 5-1"),
        ("0 2 * * *", "Mars/Olympus", "no such time zone: Mars/Olympus"),
    ],
)
def test_what_is_no_schedule_is_refused(cron: str, zone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cron_trigger(cron, zone)


@pytest.mark.parametrize(
    ("cron", "days"), [("0 12 * * *", 0), ("1 12 * * *", 1), ("0 12 1 * *", 19), ("0 0 1 1 *", 323)]
)
def test_the_last_time_that_was_due_is_found_however_long_ago(cron: str, days: int) -> None:
    found = last_due(cron_trigger(cron, "UTC"), FRIDAY)
    assert (FRIDAY.date() - found.date()) == timedelta(days=days)


def test_dates_are_those_of_the_scheduled_time_in_its_zone() -> None:
    late = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
    assert fill_dates("s3://b/{date:%Y-%m-%d}/{date:%H}", late, "Europe/Berlin") == "s3://b/2026-11-25/00"


def test_a_field_that_is_no_date_is_refused() -> None:
    check_fields("s3://b/{date:%Y}")
    with pytest.raises(ValueError, match=r"\{data:%Y\} is no field; allowed is \{date:FORMAT\}"):
        check_fields("s3://b/{data:%Y}")
