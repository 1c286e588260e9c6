"""`janus-batch schedule --to cron`: the line for a crontab. tests/deploy/test_kuberay.py checks `--to kuberay`."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.schedule.export import export
from jobs.schedule.scheduled_job import ScheduleError
from tests.support.scheduled_job import write_scheduled


def test_the_crontab_has_the_time_zone_the_queue_and_no_bare_percent_sign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export([str(write_scheduled(tmp_path))], ["name=50%"], "cron", address="http://head:8265", image="x")

    _, zone, line = capsys.readouterr().out.splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    assert line.startswith("0 2 * * 1-5 cd ")
    assert " submit --address http://head:8265 --wait-for-output --set name=50\\% " in line


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("*/5 * * * * *", "takes five fields, without seconds, got"),
        ("0 2 L * *", "takes no L, W or #, got '0 2 L"),
        ("0 2 * jul 5L", "takes no L, W or #"),
        ("0 2 LW jul *", "takes no L, W or #"),
        ("0 2 * * mon#1", "takes no L, W or #"),
    ],
)
def test_an_expression_that_cron_does_not_know_is_not_exported(cron: str, message: str, tmp_path: Path) -> None:
    path = write_scheduled(tmp_path, schedule={"cron": cron})
    with pytest.raises(ScheduleError, match=f"schedule.cron: --to cron {message}"):
        export([str(path)], [], "cron", address=None, image="x")


def test_names_with_the_same_letters_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scheduled(tmp_path, schedule={"cron": "0 2 * jul WED"})
    export([str(path)], [], "cron", address=None, image="x")
    assert "0 2 * jul WED cd " in capsys.readouterr().out
