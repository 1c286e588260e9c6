"""`janus-batch schedule --address`: a job that runs every two seconds on a real job server while its prompts arrive."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jobs.schedule.state import Run, State
from tests.support.command import finish, start, wait_until, write_job
from tests.support.servers.ray_head import RayHead
from tests.support.toy_job import bytes_of, make_job, manifest_of, write_prompts

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


def test_each_run_renders_new_rows_only_and_none_starts_while_the_last_one_is_running(tmp_path: Path) -> None:
    prompts, output, state = tmp_path / "prompts", tmp_path / "out", tmp_path / "schedule.sqlite"
    write_prompts(prompts / "monday.parquet", {"prompt": ["a red circle", "a blue square"]})
    job_file = write_job(
        tmp_path / "nightly.yaml", prompts, output, workers={"max": 1}, schedule={"cron": "*/2 * * * * *"}
    )
    head = RayHead(tmp_path / "ray.out", num_cpus=2)
    try:
        head.start()
        scheduler = start("schedule", job_file, "--address", head.url, "--state", state)
        wait_until(lambda: len(done(state)) == 1, scheduler)
        first_night = committed(output)
        assert prompts_of(output) == ["a blue square", "a red circle"]

        add_at_once(prompts / "tuesday.parquet", ["a green star"])
        wait_until(lambda: prompts_of(output) == ["a blue square", "a green star", "a red circle"], scheduler)
        wait_until(lambda: not State(state).runs("nightly", "running"), scheduler)
        scheduler.send_signal(signal.SIGTERM)
        answer = finish(scheduler)
    finally:
        head.stop()

    assert committed(output).items() >= first_night.items()
    assert "1 of them in this run" in answer.stderr
    statuses = [run.status for run in reversed(State(state).last_runs("nightly", 1000))]
    between = statuses[1 : statuses.index("done", 1)]
    assert set(between) == {"skipped"}


def done(state: Path) -> list[Run]:
    return State(state).runs("nightly", "done") if state.exists() else []


def committed(output: Path) -> dict[str, bytes]:
    """The files of committed shards. A manifest part that is written again has another creation time."""
    return {name: data for name, data in bytes_of(output).items() if name.startswith(("images/", "manifest/"))}


def prompts_of(output: Path) -> list[str]:
    return sorted(row["prompt"] for row in manifest_of(make_job("", output)))


def add_at_once(path: Path, prompts: list[str]) -> None:
    """Add a complete file at once: a run can list the folder at any moment."""
    write_prompts(path.with_suffix(".part"), {"prompt": prompts})
    path.with_suffix(".part").rename(path)
