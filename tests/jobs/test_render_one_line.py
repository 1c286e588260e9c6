"""`janus-batch render` without a job file: one line renders, resumes, and refuses other prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.command import run
from tests.support.command_line import Command
from tests.support.toy_job import bytes_of, make_job, render, write_prompts
from workflows.output.given_prompts import given_prompts_location, prompt_table, store_prompts


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_one_line_renders_resumes_and_refuses_other_prompts(tmp_path: Path) -> None:
    line = ["render", "--prompt", "a red fox", "--checkpoint", "toy", "--output", tmp_path / "out"]
    settings = ["--set", "sampling.seed=7", "--set", "workers.max=1"]

    first = run(*line, *settings)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "out/images").is_dir()
    job = json.loads((tmp_path / "out/job.json").read_text())
    assert (job["name"], job["recipe"]["seed"]) == ("out", 7)
    assert job["prompts"] == str(tmp_path / "out/prompts/prompt.parquet")
    images = {name: data for name, data in bytes_of(tmp_path / "out").items() if name.startswith("images/")}
    assert len(images) == 1

    again = run(*line, *settings)
    assert again.returncode == 0
    assert "resuming: 1 prompt done, 0 shards left" in again.stderr

    other = run(*line, "--prompt", "a second one", *settings)
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.splitlines()[0] == (
        f"janus-batch: {tmp_path}/out belongs to a job with other prompts: it has 1, yours are 2; give the same "
        "prompts in the same order, or render into another output folder"
    )
    assert bytes_of(tmp_path / "out").items() >= images.items()
    assert run("verify", tmp_path / "out").returncode == 0
    assert run("status", tmp_path / "out").returncode == 0


def test_nothing_is_written_for_a_checkpoint_that_does_not_exist(command: Command) -> None:
    out = command.folder / "out"
    code, _, err = command(
        "render", "--prompt", "a", "--checkpoint", str(command.folder / "none"), "--output", str(out)
    )

    assert code == 2
    assert "none" in err
    assert not out.exists()


def test_without_anything_to_render_the_error_shows_a_line_that_works(command: Command) -> None:
    code, _, err = command("render")

    assert code == 2
    assert 'janus-batch render --prompt "a red circle" --checkpoint janus-shapes --output out' in err


@pytest.mark.parametrize("verb", ["plan", "submit"])
@pytest.mark.parametrize("option", ["--prompt", "--prompts", "--checkpoint"])
def test_other_verbs_say_that_they_need_a_job_file(command: Command, verb: str, option: str) -> None:
    code, _, err = command(verb, option, "a fox")

    assert code == 2
    assert (
        f"{verb} takes no --prompt, --prompts or --checkpoint; it needs a job file, which `janus-batch init` writes"
        in err
    )


@pytest.fixture
def finished(tmp_path: Path) -> list[str]:
    """The line of a job that is finished with one of its two images rejected."""
    output = tmp_path / "out"
    job = make_job(given_prompts_location(str(output)), output, shard_rows=256)
    store_prompts(job, prompt_table(["a", "toy:nan"]))
    render(job)
    return ["render", "--prompt", "a", "--prompt", "toy:nan", "--checkpoint", "toy", "--output", str(output)]


@pytest.mark.parametrize(("limit", "code"), [("50%", 0), ("1", 0), ("49%", 1), ("0", 1)])
def test_more_rejected_images_than_allowed_fail_the_job(
    command: Command, finished: list[str], limit: str, code: int
) -> None:
    found, _, err = command(*finished, "--max-rejected", limit)

    assert found == code
    assert "          1 x " in err
    if code:
        assert err.splitlines()[-2:] == [
            f"janus-batch: 1 of 2 images were rejected (50.0%), --max-rejected allows {limit}; "
            f"{command.folder}/out/rejected has the reasons",
            "janus-batch: committed images are kept",
        ]


def test_a_program_reads_the_counts_and_then_the_failure(command: Command, finished: list[str]) -> None:
    code, out, _ = command(*finished, "--max-rejected", "0", "--json")

    assert code == 1
    done, failed = (json.loads(line) for line in out.splitlines())
    assert (done["event"], done["num_rejected"]) == ("done", 1)
    assert (failed["event"], failed["error"].partition(" (")[0]) == ("failed", "1 of 2 images were rejected")


def test_prompts_without_rows_fail_unless_that_is_allowed(command: Command) -> None:
    prompts = write_prompts(command.folder / "none.parquet", {"prompt": pa.array([], pa.string())})
    line = ["render", "--prompts", prompts, "--checkpoint", "toy", "--output", str(command.folder / "out")]

    code, _, err = command(*line)

    assert code == 1
    assert f"the prompts have no rows, so {command.folder}/out has no images; --allow-empty accepts this" in err
    assert command(*line, "--allow-empty")[0] == 0


def test_a_limit_that_makes_no_sense_is_refused(command: Command, finished: list[str]) -> None:
    code, _, err = command(*finished, "--max-rejected", "5 images")

    assert code == 2
    assert "must be a number of images, such as 100, or a percentage from 0% to 100%, got 5 images" in err
