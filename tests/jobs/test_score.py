from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset
import pytest

from tests.support.clip import write_clip
from tests.support.command_line import Command
from tests.support.toy_job import make_job, render, write_prompts
from workflows.output.claim import claim_output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {index}" for index in range(6)]})
    job = make_job(prompts, tmp_path / "out")
    claim_output(job, {"model": {"checkpoint": "toy"}})
    render(job)
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorer", "clip"], "--scorer clip needs --checkpoint"),
        (["--scorer", "aesthetic", "--checkpoint", "x"], "--scorer aesthetic needs --head"),
        (
            ["--scorer", "judge", "--head", "x"],
            "takes --caption, --checkpoint, --question, --revision; got --head",
        ),
        (["--scorer", "mine.py:f", "--question", "x"], "--scorer function takes no options of its own; got --question"),
        (["--scorer", "mine"], "a scorer of your own is written as FILE.py:function, got 'mine'"),
        (["--scorer", "gone.py:f"], "--scorer: gone.py cannot be read: No such file or directory"),
        (["--scorer", "clip", "--checkpoint", "janus-shapes"], "janus-shapes is a model of type 'multi_modality'"),
        (["--scorer", "duplicates", "--embeddings-from", "clip"], "scorer clip has no scores for 2 parts"),
        (["--scorer", "clip", "--checkpoint", "x", "--max-distance", "0"], "got --max-distance"),
        (["--scorer", "judge", "--revision", "main"], "--revision needs --checkpoint"),
        (["--scorer", "duplicates", "--min-similarity", "0.5"], "--min-similarity needs --embeddings-from"),
        (["--scorer", "judge", "--question", "Is it {color}?"], "its only field is {prompt}, got {color}"),
        (["--scorer", "judge", "--question", ""], "judge.question"),
        (["--scorer", "duplicates", "--name", "../alike"], "a scorer's name has lower-case letters"),
        (["--scorer", "mine.py:prompt"], "prompt is a column of the manifest; give the scores another name"),
        (
            ["--scorer", "duplicates", "--set", "workers.max=2"],
            "--scorer duplicates starts no actors; got 'workers.max=2'",
        ),
        (["--scorer", "judge", "--set", "sampling.seed=1"], "score takes the keys of `workers`"),
    ],
)
def test_what_cannot_be_scored_is_refused(command: Command, arguments: list[str], message: str) -> None:
    code, _, error = command("score", "out", *arguments)

    assert (code, message in error) == (2, True), error


def test_duplicates_need_no_actor(command: Command) -> None:
    code, out, _ = command("score", "out", "--scorer", "duplicates", "--name", "alike", "--json")

    assert code == 0
    assert json.loads(out)["num_images"] == 6
    assert pyarrow.dataset.dataset("out/scores/alike").count_rows() == 6


@pytest.mark.usefixtures("ray_cluster")
def test_a_judge_and_clip_score_on_actors(command: Command, tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path / "clip"))
    one_actor = ["--set", "workers.max=1"]
    for arguments in (
        ["--scorer", "judge", *one_actor],
        ["--scorer", "clip", "--checkpoint", clip, "--embeddings", *one_actor],
        ["--scorer", "duplicates", "--embeddings-from", "clip", "--min-similarity", "-1"],
    ):
        code, _, error = command("score", "out", *arguments)
        assert code == 0, error

    judge = pyarrow.dataset.dataset("out/scores/judge").to_table()["score"].to_pylist()
    groups = pyarrow.dataset.dataset("out/scores/duplicates").to_table()["cluster"].unique().to_pylist()
    assert all(0 <= score <= 1 for score in judge)
    assert len(groups) == 1
