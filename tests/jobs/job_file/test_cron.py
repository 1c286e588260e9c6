"""Times of schedules, held against dates that a calendar knows and against a clock that tries every second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest

from jobs.job_file.cron import check_cron, last_due, times_after

FRIDAY = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BERLIN = "Europe/Berlin"
SPRING, AUTUMN = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)


def first(cron: str, count: int, *, zone: str = "UTC", start: datetime = FRIDAY) -> list[str]:
    return [f"{time:%a %d.%m. %H:%M:%S}" for time in islice(times_after(cron, zone, start), count)]


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("0 2 * * *", ["Sat 21.11. 02:00:00", "Sun 22.11. 02:00:00"]),
        ("*/20 * * * *", ["Fri 20.11. 12:20:00", "Fri 20.11. 12:40:00"]),
        ("*/30 * * * * *", ["Fri 20.11. 12:00:30", "Fri 20.11. 12:01:00"]),
        ("15,45 1 12 * * *", ["Fri 20.11. 12:01:15", "Fri 20.11. 12:01:45"]),
        ("0 2 * * 0", ["Sun 22.11. 02:00:00", "Sun 29.11. 02:00:00"]),
        ("0 2 * * 7", ["Sun 22.11. 02:00:00", "Sun 29.11. 02:00:00"]),
        ("0 2 * * 1-5", ["Mon 23.11. 02:00:00", "Tue 24.11. 02:00:00"]),
        ("0 2 * * 6-7", ["Sat 21.11. 02:00:00", "Sun 22.11. 02:00:00"]),  # across the weekend
        ("0 2 * * mon,6", ["Sat 21.11. 02:00:00", "Mon 23.11. 02:00:00"]),
        ("0 2 24 * 0", ["Sun 22.11. 02:00:00", "Tue 24.11. 02:00:00"]),  # on either day, as in cron
        ("0 2 */2 * 0", ["Sun 29.11. 02:00:00", "Sun 13.12. 02:00:00"]),  # a star: on days that are both
    ],
)
def test_expressions_mean_what_they_mean_to_cron(cron: str, times: list[str]) -> None:
    assert first(cron, 2) == times


def test_times_follow_the_clocks_of_the_time_zone() -> None:
    assert first("0 2 * * *", 1, zone=BERLIN) == ["Sat 21.11. 01:00:00"]
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert first("0 2 * * *", 1, zone=BERLIN, start=summer) == ["Thu 02.07. 00:00:00"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 2 * * *"])
def test_a_night_without_the_hour_has_its_run_right_after_the_change(cron: str) -> None:
    assert first(cron, 2, zone=BERLIN, start=SPRING) == ["Sun 29.03. 01:00:00", "Mon 30.03. 00:30:00"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 2 * * *"])
def test_a_night_with_the_hour_twice_has_one_run(cron: str) -> None:
    assert first(cron, 2, zone=BERLIN, start=AUTUMN) == ["Sun 25.10. 00:30:00", "Mon 26.10. 01:30:00"]


def test_a_schedule_of_every_hour_keeps_running_when_clocks_change() -> None:
    hours = takewhile(lambda time: time < AUTUMN + timedelta(days=1), times_after("0 * * * *", BERLIN, AUTUMN))
    assert list(hours) == [AUTUMN + timedelta(hours=hour) for hour in range(1, 24)]


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("0 2 * *", "UTC", "must have five fields"),
        ("@daily", "UTC", "must have five fields"),
        ("0 25 * * *", "UTC", "the hour is not valid; allowed is 0-23"),
        ("x * * * *", "UTC", "the minute is not valid; allowed is 0-59"),
        ("60 * * * * *", "UTC", "the second is not valid; allowed is 0-59"),
        ("0 2 30 2 *", "UTC", "the day-of-month is not valid; allowed is 1-31, and a day that exists in the month"),
        ("0 2 * 13 *", "UTC", "the month is not valid; allowed is 1-12 or jan-dec"),
        ("0 2 * * 5-1", "UTC", "the day-of-week is not valid; .* ascending ranges: 5-7 is Friday to Sunday"),
        ("0 2 * * sat-sun", "UTC", "the day-of-week is not valid"),
        ("9" * 5000 + " * * * *", "UTC", "a number is too long"),
        ("0 2 * * *", "Mars/Olympus", "unknown time zone 'Mars/Olympus'; allowed are names such as UTC"),
        ("0 2 * * *", "../etc/passwd", "unknown time zone"),
        ("0 2 * * *", "", "unknown time zone"),
    ],
)
def test_a_bad_schedule_is_refused(cron: str, zone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cron(cron, zone)


def test_an_expression_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="matches no date in the next 50 years"):
        check_cron("0 0 */30 2 mon#5", "UTC")  # the first of a month is no fifth Monday


@pytest.mark.parametrize(
    ("cron", "days"),
    [("0 12 * * *", 0), ("1 12 * * *", 1), ("0 12 1 * *", 19), ("0 0 1 1 *", 323), ("0 0 29 2 *", 995)],
)
def test_the_last_time_that_was_due_is_found_however_long_ago(cron: str, days: int) -> None:
    found = last_due(cron, "UTC", FRIDAY)
    assert (FRIDAY.date() - found.date()) == timedelta(days=days)


@pytest.mark.parametrize("cron", ["30 2 * * *", "15,45 2,3 * * *", "*/20 * * * *", "10,50 */30 2 * * *", "0 3 * * 0"])
@pytest.mark.parametrize("start", [SPRING, AUTUMN])
def test_the_last_and_the_next_times_agree_at_every_moment_around_a_change_of_clocks(
    cron: str, start: datetime
) -> None:
    begin, end = start - timedelta(days=9), start + timedelta(days=9)
    times = list(takewhile(lambda time: time <= end, times_after(cron, BERLIN, begin)))
    assert times == sorted(set(times))
    moment = start
    while moment < start + timedelta(days=1):
        assert last_due(cron, BERLIN, moment) == max(time for time in times if time <= moment)
        assert next(times_after(cron, BERLIN, moment)) == min(time for time in times if time > moment)
        moment += timedelta(minutes=7, seconds=10, microseconds=1)


def test_a_plain_zone_agrees_with_a_clock_that_tries_every_minute() -> None:
    """Minute, hour, day and weekday, matched by hand over a year in a zone whose clocks change."""
    zone, moment, found = ZoneInfo(BERLIN), datetime(2026, 1, 1, tzinfo=UTC), []
    while moment < datetime(2027, 1, 1, tzinfo=UTC):
        local = moment.astimezone(zone)
        if (local.minute, local.hour) == (0, 6) and (local.day == 13 or local.weekday() == 4):
            found.append(moment)
        moment += timedelta(minutes=30)
    start = datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert list(islice(times_after("0 6 13 * 5", BERLIN, start), len(found))) == found
