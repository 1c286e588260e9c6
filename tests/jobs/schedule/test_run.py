"""Which runs of a schedule are recorded as due, skipped or dropped, and what becomes of them; no Ray."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import jobs.schedule.run
from jobs.job_file.spec import JobFileError, JobSpec, check_fields, dated
from jobs.schedule import runner as schedule_runner
from jobs.schedule.export import export
from jobs.schedule.listing import list_runs
from jobs.schedule.run import ScheduleError, read_scheduled_jobs, record_due, schedule
from jobs.schedule.runner import Runner
from jobs.schedule.state import Runs

NOW = datetime.now(UTC)
HOURLY = {"name": "job", "cron": f"{NOW.minute} * * * *", "time_zone": "UTC", "when_running": "skip", "catch_up": 1}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, the run of the minute in which the tests began is on time."""
    monkeypatch.setattr(jobs.schedule.run, "ON_TIME_SECONDS", 3000)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "schedule.sqlite"


def due(state: Path, *, hours_ago: float, **changes: object) -> list[str]:
    """What is recorded after a scheduler that looked `hours_ago` last looks again; a run is due at this very minute."""
    since = (NOW - timedelta(hours=hours_ago, minutes=1)).isoformat()
    record_due(state=str(state), since=since, **{**HOURLY, **changes})
    return states(state)


def states(state: Path) -> list[str]:
    return [run.state for run in Runs(state).all("job")]


def at(hours_ago: int) -> datetime:
    return NOW.replace(second=0, microsecond=0) - timedelta(hours=hours_ago)


def test_a_run_that_is_due_waits_to_be_begun(state: Path) -> None:
    assert due(state, hours_ago=0) == ["waiting"]
    assert due(state, hours_ago=0) == ["waiting"]  # asked again, it is there once


def test_missed_runs_are_made_up_for_to_the_limit_and_the_oldest_are_dropped(state: Path) -> None:
    assert due(state, hours_ago=4, catch_up=2) == ["dropped", "dropped", "waiting", "waiting", "waiting"]


def test_without_catching_up_only_the_run_of_now_is_made(state: Path) -> None:
    assert due(state, hours_ago=2, catch_up=0) == ["dropped", "dropped", "waiting"]


@pytest.mark.parametrize(("when_running", "expected"), [("skip", "skipped"), ("queue", "waiting")])
def test_a_run_that_is_due_while_the_last_one_runs_is_skipped_or_queued(
    when_running: str, expected: str, state: Path
) -> None:
    runs = Runs(state)
    runs.add("job", [at(1)], "waiting")
    runs.begin(runs.next_ready("job", NOW), NOW)

    assert due(state, hours_ago=0, when_running=when_running) == ["running", expected]
    assert runs.next_ready("job", NOW) is None


def test_a_queue_holds_no_more_than_may_be_caught_up(state: Path) -> None:
    runs = Runs(state)
    runs.add("job", [at(3)], "waiting")
    runs.begin(runs.next_ready("job", NOW), NOW)
    runs.add("job", [at(2), at(1)], "waiting")

    assert due(state, hours_ago=0, when_running="queue", catch_up=2) == ["running", "dropped", "waiting", "waiting"]


def test_a_run_whose_scheduler_was_killed_is_taken_up_first_and_is_not_dropped(state: Path) -> None:
    runs = Runs(state)
    runs.add("job", [at(3)], "waiting")
    runs.begin(runs.next_ready("job", NOW), NOW)
    runs.put_back_interrupted()

    assert due(state, hours_ago=2, catch_up=0) == ["waiting", "dropped", "dropped", "skipped"]
    assert runs.next_ready("job", NOW).scheduled_at == at(3)
    assert runs.next_ready("job", NOW).tries == 0


# ---- processes -------------------------------------------------------------------------------------------------------


class Scripted(Runner):
    """A runner whose processes end with these exit codes, one after the other."""

    def __init__(self, runs: Runs, codes: list[int], **section: object) -> None:
        super().__init__(runs, {"job": (Path("job.yaml"), spec(**section))}, [], None)
        self.codes = codes

    def _command(self, run: object) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({self.codes.pop(0)})"]


def spec(**section: object) -> JobSpec:
    schedule = {"cron": "0 2 * * *", **section}
    return check_fields({"prompts": "p", "output": "o", "model": {"checkpoint": "toy"}, "schedule": schedule})


@pytest.mark.parametrize(
    ("codes", "ended", "worst"),
    [([0], ("done", 0, 1), 0), ([1, 0], ("done", 0, 2), 0), ([1, 1], ("failed", 1, 2), 1), ([2], ("failed", 2, 1), 2)],
)
def test_an_incomplete_run_is_begun_again_and_a_wrong_one_is_not(
    codes: list[int], ended: tuple[str, int, int], worst: int, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_runner, "RETRY_SECONDS", 0)
    runs = Runs(state)
    runs.add("job", [at(0)], "waiting")
    runner = Scripted(runs, codes, max_tries=2)
    while runner.step():
        pass
    (run,) = runs.all("job")
    assert (run.state, run.exit_code, run.tries) == ended
    assert runner.worst_exit_code == worst


# ---- what a person sees ----------------------------------------------------------------------------------------------


def job_file(folder: Path, name: str = "job", **changes: object) -> Path:
    fields = {
        "prompts": "s3://bucket/{date:%Y-%m-%d}/",
        "output": "/shared/out/{date:%Y-%m-%d}",
        "model": {"checkpoint": "toy"},
        "schedule": {"cron": "0 2 * * 1-5", "time_zone": "Europe/Berlin", "when_running": "queue"},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_date_fields_are_filled_from_the_time_given_in_the_zone_of_the_schedule() -> None:
    wish = spec(time_zone="Europe/Berlin").model_copy(update={"output": "o/{date:%Y-%m-%d_%H}"})
    assert dated(wish, "2026-11-24T23:30+00:00").output == "o/2026-11-25_00"
    assert dated(wish, "2026-11-24T02:00").output == "o/2026-11-24_02"
    with pytest.raises(JobFileError, match="--scheduled-at must be a time such as 2026-11-24T02:00, got yesterday"):
        dated(wish, "yesterday")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": None}, r"prompts: the date in .* is a scheduled time's"),
        ({"output": "/o/{day}"}, r"output: \{day\} is no field; allowed is \{date:FORMAT\}"),
        ({"schedule": {"cron": "hourly"}}, "schedule.cron: must have five fields"),
        ({"schedule": {"cron": "0 2 * * *", "when_running": "queue", "catch_up": 0}}, "schedule.catch_up: a queue"),
    ],
)
def test_a_schedule_that_is_wrong_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=message):
        read_scheduled_jobs([str(job_file(tmp_path, **changes))], [])


def test_a_job_without_a_schedule_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    plain = job_file(tmp_path, "plain", prompts="p", output="o", schedule=None)
    with pytest.raises(JobFileError, match=r"plain.yaml has no schedule section; it needs at least schedule.cron"):
        read_scheduled_jobs([str(plain)], [])
    one = str(job_file(tmp_path))
    with pytest.raises(ScheduleError, match="are both called job; name one differently"):
        read_scheduled_jobs([one, one], [])


def test_two_schedulers_on_one_state_are_refused(tmp_path: Path, state: Path) -> None:
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True); input()"
    command = [sys.executable, "-c", hold, f"{state}.lock"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        with pytest.raises(ScheduleError, match="--state: another scheduler uses "):
            schedule([str(job_file(tmp_path))], [], address=None, state=state, is_once=True)
    finally:
        other.kill()
        other.wait()


def test_the_list_says_what_comes_and_what_was(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(state)
    runs.add("job", [datetime(2026, 11, 24, 1, tzinfo=UTC)], "waiting")
    (run,) = runs.all("job")
    runs.begin(run, NOW)
    runs.end(run, "done", 0, NOW)

    list_runs([str(job_file(tmp_path))], [], state)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("job  (0 2 * * 1-5 in Europe/Berlin; queue, ")
    assert [line.split()[-1] for line in lines[1:4]] == ["next"] * 3
    assert lines[4] == "  2026-11-24 02:00:00 CET  done, exit code 0"


def test_the_crontab_has_the_time_zone_the_queue_and_no_bare_percent_sign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export([str(job_file(tmp_path))], ["name=50%"], "cron", address="http://head:8265", image="x")

    _, zone, line = capsys.readouterr().out.splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    assert line.startswith("0 2 * * 1-5 cd ")
    assert " submit --address http://head:8265 --wait-for-output --set name=50\\% " in line


def test_a_schedule_with_seconds_is_not_exported(tmp_path: Path) -> None:
    path = job_file(tmp_path, schedule={"cron": "*/5 * * * * *"})
    with pytest.raises(ScheduleError, match="--to cron takes five fields, without seconds"):
        export([str(path)], [], "cron", address=None, image="x")
