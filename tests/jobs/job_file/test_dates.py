"""Date fields: what they become, and which are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from jobs.job_file.date_fields import check_date_fields, fill_dates
from jobs.job_file.dates import dated
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from jobs.job_file.spec import JobSpec


def spec(**section: object) -> JobSpec:
    schedule = {"cron": "0 2 * * *", **section}
    return check_fields({"prompts": "p", "output": "o", "model": {"checkpoint": "toy"}, "schedule": schedule})


def test_dates_are_those_of_the_scheduled_time_in_its_zone() -> None:
    late = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
    assert fill_dates("s3://b/{date:%Y-%m-%d}/{date:%H}", late, "Europe/Berlin") == "s3://b/2026-11-25/00"


@pytest.mark.parametrize(
    "field", ["{data:%Y}", "{date:}", "{date:today}", "{date:%Q}", "{date:%Y%n}", "{date:%Y", "{ds}"]
)
def test_a_field_that_is_no_date_or_the_same_on_every_day_is_refused(field: str) -> None:
    check_date_fields("s3://b/{date:%Y}/{date:day-%j}")
    with pytest.raises(ValueError, match=rf"{re.escape(field)} is not a date field; allowed is \{{date:FORMAT\}}"):
        check_date_fields(f"s3://b/{field}")


def test_date_fields_are_filled_from_the_time_given_in_the_zone_of_the_schedule() -> None:
    written = spec(time_zone="Europe/Berlin").model_copy(update={"output": "o/{date:%Y-%m-%d_%H}"})
    assert dated(written, "2026-11-24T23:30+00:00").output == "o/2026-11-25_00"
    assert dated(written, "2026-11-24T02:00").output == "o/2026-11-24_02"
    with pytest.raises(JobFileError, match="--scheduled-at must be a time such as 2026-11-24T02:00, got yesterday"):
        dated(written, "yesterday")
    with pytest.raises(JobFileError, match="--scheduled-at must be a time such as"):
        dated(written, "0001-01-01T00:00+14:00")
