"""The notification at the end of a job: its state, counts and reasons, whatever the end is; and no effect on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.api.show import SilentShow
from jobs.job_file.errors import JobFileError
from jobs.terminal.on_done import notifying
from tests.support.command import start, wait_until, write_job
from tests.support.command_line import Command
from tests.support.toy_job import FOUR_ROWS, make_job, render, write_prompts
from tests.support.webhook import WebHookServer, webhook_server


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebHookServer]:
    with webhook_server() as server:
        monkeypatch.setenv("HOOK", server.url)
        yield server


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A job that is rendered: two images, two rejected."""
    prompts = write_prompts(tmp_path / "prompts.parquet", FOUR_ROWS)
    render(make_job(prompts, tmp_path / "out", shard_rows=256))
    command = Command(tmp_path, monkeypatch, capsys)
    command.write(
        name="nightly", prompts=prompts, output=str(tmp_path / "out"), model={"checkpoint": "toy"}, on_done="$HOOK"
    )
    return command


def test_a_finished_job_tells_its_counts_and_reasons(command: Command, hook: WebHookServer) -> None:
    code, _, err = command("render", str(command.job_file))

    assert code == 0, err
    ((told,), out) = hook.received, command.folder / "out"
    assert told.pop("seconds") >= 0
    assert told.pop("text").startswith("nightly done · 2 images, 2 rejected · ")
    assert told == {
        "state": "done",
        "exit_code": 0,
        "error": None,
        "job": "nightly",
        "output": str(out),
        "report": str(out / "report.html"),
        "num_images": 2,
        "num_images_total": None,
        "num_rejected": 2,
        "reasons": [
            {"reason": "prompt is null", "num_images": 1},
            {"reason": "the model's numbers became NaN", "num_images": 1},
        ],
        "num_images_this_run": 0,
        "images_per_second": None,
    }
    assert hook.url not in err
    assert json.loads((out / "job.json").read_text())["job_file"] == {}  # as it was before


def test_an_output_that_is_not_accepted_tells_that_it_failed(command: Command, hook: WebHookServer) -> None:
    code, _, _ = command("render", str(command.job_file), "--max-rejected", "0")

    assert code == 1
    (told,) = hook.received
    assert (told["state"], told["exit_code"], told["num_rejected"]) == ("failed", 1, 2)
    assert told["error"].startswith("2 of 4 images were rejected (50.0%)")
    assert told["text"].startswith("nightly failed · 2 of 4 images were rejected (50.0%)")


def test_a_job_that_is_refused_tells_the_reason(command: Command, hook: WebHookServer) -> None:
    code, _, _ = command("render", str(command.job_file), "--set", "sampling.seed=1")

    assert code == 2
    (told,) = hook.received
    assert (told["state"], told["exit_code"], told["num_images"]) == ("refused", 2, None)
    assert "sampling.seed" in told["error"]


def test_a_receiver_that_does_not_answer_changes_no_exit_code(command: Command, hook: WebHookServer) -> None:
    hook.status = 500

    code, out, err = command("render", str(command.job_file))

    assert (code, out) == (0, "")
    assert err.endswith("note: on_done was not notified: $HOOK: HTTP status 500\n")


def test_a_command_that_fails_changes_no_exit_code(command: Command) -> None:
    code, _, err = command("render", str(command.job_file), "--set", "on_done='echo no room >&2; exit 7'")

    assert code == 0
    assert err.endswith("note: on_done was not notified: the command ended with exit code 7: no room\n")


def test_a_variable_that_is_not_set_is_refused_before_anything_is_written(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK", raising=False)

    code, _, err = command("render", str(command.job_file), "--set", f"output={command.folder / 'other'}")

    assert code == 2
    assert err == ("janus-batch: on_done: the environment variable HOOK is not set; it must hold an http(s) URL\n")
    assert not (command.folder / "other").exists()


@pytest.mark.parametrize(
    ("on_done", "message"),
    [
        ("https://hooks.slack.com/services/T0/B0/a-secret", "on_done: a URL is refused"),
        ("curl -d @- HTTPS://hooks.slack.com/services/T0/B0/a-secret", "write on_done: \\$NAME"),
        ("curl -u 'AKIAIOSFODNN7EXAMPLE'", "on_done: a value that is a secret is refused"),
        (" ", "on_done: must be "),
    ],
)
def test_a_secret_in_the_job_file_is_refused_and_not_shown(
    command: Command, hook: WebHookServer, on_done: str, message: str
) -> None:
    command.write(on_done=on_done)

    code, _, err = command("render", str(command.job_file))

    assert code == 2
    assert message.replace("\\", "") in err
    assert "a-secret" not in err
    assert "AKIA" not in err
    assert hook.received == []


@pytest.mark.parametrize(
    ("error", "state", "exit_code"),
    [
        (KeyboardInterrupt(), "interrupted", 1),
        (KeyboardInterrupt("interrupted: this run committed 1 of 2 shards"), "interrupted", 1),
        (ValueError("a bug\nof two lines"), "failed", 1),
        (JobFileError("a rule"), "refused", 2),
    ],
)
def test_every_end_has_a_state(hook: WebHookServer, error: BaseException, state: str, exit_code: int) -> None:
    with pytest.raises(type(error)), notifying("$HOOK", "nightly", "out", SilentShow()):
        raise error

    (told,) = hook.received
    assert (told["state"], told["exit_code"]) == (state, exit_code)
    assert told["error"] == (str(error).replace("\n", "; ") or None)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_is_interrupted_tells_how_far_it_came(tmp_path: Path, hook: WebHookServer) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"fox {n} toy:sleep=0.3" for n in range(40)]})
    job_file = write_job(
        tmp_path / "job.yaml", prompts, tmp_path / "out", workers={"max": 1}, shard_rows=2, on_done="$HOOK"
    )
    process = start("render", job_file)
    wait_until(lambda: any((tmp_path / "out/manifest").glob("*.parquet")), process)

    process.terminate()
    process.communicate(timeout=120)

    assert process.returncode == 1
    (told,) = hook.received
    assert (told["state"], told["exit_code"], told["num_images_total"]) == ("interrupted", 1, 40)
    assert 0 < told["num_images"] < 40
    assert told["error"].startswith("received SIGTERM: this run committed ")
