"""`janus-batch schedule`: what the user sees, and what is refused before anything runs; no Ray."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.job_file.errors import JobFileError
from jobs.schedule.listing import list_runs
from jobs.schedule.run import default_state_file, schedule
from jobs.schedule.scheduled_job import ScheduleError, read_scheduled_jobs
from jobs.schedule.state import State
from tests.support.scheduled_job import write_scheduled


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    return tmp_path / "schedule.sqlite"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": None}, r"prompts: date fields need a schedule section, got s3://"),
        ({"output": "/o/{day}"}, r"output: \{day\} is not a date field; allowed is \{date:FORMAT\}"),
        ({"schedule": {"cron": "hourly"}}, "schedule.cron: must have five fields"),
        (
            {"schedule": {"cron": "0 2 * * *", "when_running": "queue", "catch_up": 0}},
            "catch_up: must be at least 1",
        ),
    ],
)
def test_a_wrong_schedule_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=message):
        read_scheduled_jobs([str(write_scheduled(tmp_path, **changes))], [])


def test_a_job_without_a_schedule_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    plain = write_scheduled(tmp_path, "plain", prompts="p", output="o", schedule=None)
    with pytest.raises(JobFileError, match=r"plain.yaml has no schedule section; at least schedule.cron is required"):
        read_scheduled_jobs([str(plain)], [])
    one = str(write_scheduled(tmp_path))
    with pytest.raises(ScheduleError, match="are both named job; rename one of them"):
        read_scheduled_jobs([one, one], [])


def test_two_schedulers_on_one_state_file_are_refused(tmp_path: Path, state_file: Path) -> None:
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True); input()"
    command = [sys.executable, "-c", hold, f"{state_file}.lock"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        with pytest.raises(ScheduleError, match="--state: another scheduler uses "):
            schedule([str(write_scheduled(tmp_path))], [], address=None, state_file=state_file, is_once=True)
    finally:
        other.kill()
        other.wait()


def test_a_user_without_a_home_folder_is_asked_for_a_state_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "~")  # as Python has it for a user who is not in the system's list
    with pytest.raises(ScheduleError, match="--state: this user has no home folder; name a file, or set HOME"):
        default_state_file()


def test_a_file_that_is_no_state_file_is_refused_and_kept(tmp_path: Path, state_file: Path) -> None:
    job_files = [str(write_scheduled(tmp_path))]
    state_file.write_text("a letter to a friend, much longer than a hundred bytes " * 4)
    message = "--state: .*schedule.sqlite is not a state file of a scheduler"

    with pytest.raises(ScheduleError, match=message):
        schedule(job_files, [], address=None, state_file=state_file, is_once=True)
    with pytest.raises(ScheduleError, match=message):
        list_runs(job_files, [], state_file)
    with pytest.raises(ScheduleError, match=r"--state: .* cannot be written: "):
        schedule(job_files, [], address=None, state_file=state_file / "below a file", is_once=True)
    assert state_file.read_text().startswith("a letter")


def test_the_list_shows_the_next_and_the_last_runs(
    tmp_path: Path, state_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, night = State(state_file), datetime(2026, 11, 24, 1, tzinfo=UTC)
    state.record("job", {night: "waiting"})
    (run,) = state.runs("job", "waiting")
    state.start(run, night)
    state.end(run, "done", 0, night)

    list_runs([str(write_scheduled(tmp_path))], [], state_file)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("job  (0 2 * * 1-5 in Europe/Berlin; queue, ")
    assert [line.split()[-1] for line in lines[1:4]] == ["next"] * 3
    assert lines[4:] == ["  2026-11-24 02:00:00 CET  done, exit code 0"]
