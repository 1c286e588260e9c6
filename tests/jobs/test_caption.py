"""`janus-batch caption`: images in, answers out, with the resume, status and verify of every job."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.job_file.looking import folder_of
from tests.support.checkpoints import TINY
from tests.support.command import run
from tests.support.command_line import Command
from tests.support.pictures import encoded, noise
from tests.support.toy_job import bytes_of, make_job, make_look_job, render, write_prompts
from workflows.output.claim import claim_output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def answers_in(output: Path) -> list[dict]:
    return [row for part in sorted((output / "manifest").iterdir()) for row in pq.read_table(part).to_pylist()]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mixed_sizes_and_broken_files_are_captioned_by_a_checkpoint_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "in/pictures").mkdir(parents=True)
    (tmp_path / "in/pictures/a.jpg").write_bytes(encoded(noise(300, 20), "JPEG"))
    good = {"bytes": encoded(noise(7, 90)), "path": None}
    columns = {
        "id": ["path", "bytes", "broken", "missing"],
        "image": [{"bytes": None, "path": "pictures/a.jpg"}, good, {"bytes": b"no", "path": None}, None],
        "question": ["Is this red? Answer yes or no.", None, None, None],
    }
    write_prompts(tmp_path / "in/images.parquet", columns)
    line = ["caption", tmp_path / "in/images.parquet", "--checkpoint", TINY, "--output", tmp_path / "out"]
    settings = ["--set", "understand.max_tokens=5", "--set", "workers.max=1"]
    done = run(*line, *settings)
    assert done.returncode == 0, done.stderr
    assert "done: 2 images, 2 rejected" in done.stdout + done.stderr
    first, second = answers_in(tmp_path / "out")
    assert (first["image_id"], first["image"], first["score_kind"]) == ("path", "pictures/a.jpg", "answer_strings")
    assert 0 < first["score"] < 1
    assert (second["question"], second["score"]) == ("Describe this image in one sentence.", None)

    before = bytes_of(tmp_path / "out/manifest")
    again = run(*line, *settings)
    assert again.returncode == 0
    assert bytes_of(tmp_path / "out/manifest") == before
    assert run("verify", tmp_path / "out").returncode == 0
    assert json.loads(run("status", tmp_path / "out", "--json").stdout)["num_images"] == 2
    other = run(*line, *settings, "--question", "What is it?")
    assert other.returncode == 2
    assert 'belongs to a job with understand.question = "Describe this image' in other.stderr


@pytest.mark.parametrize(
    ("changes", "key", "old"),
    [
        ({"understand": {"question": "what?"}}, "understand.question", '"Describe this image in one sentence."'),
        ({"understand": {"max_tokens": 5}}, "understand.max_tokens", "64"),
        ({"understand": {"score": True}}, "understand.score", "false"),
        ({"understand": {"root": "/elsewhere"}}, "understand.root", '"/'),
        ({"task": "render", "prompt_column": "question"}, "sampling", ""),
    ],
)
def test_a_refused_resume_names_the_key_and_the_old_value(changes: dict, key: str, old: str, command: Command) -> None:
    images = write_prompts(command.folder / "in/images.parquet", {"image": [encoded(noise())], "question": ["a"]})
    claim_output(make_look_job(images, command.folder / "out"), {})
    command.write(task="understand", prompts=images, output=str(command.folder / "out"), model={"checkpoint": "toy"})
    assert command("plan", str(command.job_file))[0] == 0
    command.write(**changes)
    code, _, err = command("plan", str(command.job_file))
    assert code == 2
    assert f"belongs to a job with {key}" in err
    assert old in err


def test_an_output_is_planned_as_the_images_of_its_manifest(command: Command) -> None:
    prompts = write_prompts(command.folder / "p.parquet", {"prompt": ["a fox"], "id": ["fox"]})
    render(make_job(prompts, command.folder / "renders"))
    command.write(
        task="understand",
        prompts=str(command.folder / "renders/manifest"),
        columns={"id": "image_id"},
        output=str(command.folder / "out"),
        model={"checkpoint": "toy"},
        understand={"question": "Is it a fox? Answer yes or no."},
    )
    code, out, err = command("plan", str(command.job_file))
    assert (code, err) == (0, "")
    assert "question      Is it a fox? Answer yes or no." in out
    assert "images        1 " in out
    assert "speed" not in out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": {"seed": 1}}, "sampling: a job with task: understand renders nothing; leave the section out"),
        ({"judge": {"best_of": 2}}, "judge: a job with task: understand renders nothing"),
        ({"model": {"checkpoint": "toy", "kv_cache": "fp8"}}, "model.kv_cache"),
        ({"prompt_column": "caption"}, "prompt_column: a job with task: understand reads no prompts"),
        ({"columns": {"seed": "s"}}, "columns: the columns that a job reads are image, question, id; got seed"),
        ({"task": "render", "understand": {"score": True}}, "understand: needs task: understand"),
        ({"understand": {"question": " "}}, "understand.question: must not be empty"),
        ({"model": {"checkpoint": "janusflow-shapes"}}, "cannot look at images"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict, message: str, command: Command) -> None:
    write_prompts(command.folder / "images.parquet", {"image": [encoded(noise())]})
    command.write(
        task="understand",
        prompts=str(command.folder / "images.parquet"),
        output=str(command.folder / "out"),
        model={"checkpoint": "toy"},
    )
    command.write(**fields)
    code, _, err = command("plan", str(command.job_file))
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("prompts", "folder"),
    [
        ("/data/images.parquet", "/data"),
        ("/data/*.parquet", "/data"),
        ("/data/in", "/data/in"),
        ("/renders/manifest", "/renders"),
        ("/renders/manifest/a.parquet", "/renders"),
        ("/renders/manifest/*.parquet", "/renders"),
        ("s3://bucket/renders/manifest", "s3://bucket/renders"),
    ],
)
def test_relative_locations_refer_to_the_folder_of_the_files_or_to_their_output(prompts: str, folder: str) -> None:
    assert folder_of(prompts) == folder


@pytest.mark.parametrize(
    "verb", [("report",), ("export", "DEST", "--layout", "imagefolder"), ("verify", "--replay", "1")]
)
def test_verbs_that_need_images_refuse_an_output_of_answers(verb: tuple[str, ...], command: Command) -> None:
    images = write_prompts(command.folder / "in/images.parquet", {"image": [encoded(noise())]})
    render(make_look_job(images, command.folder / "out"))
    name, *others = [str(command.folder / "dest") if word == "DEST" else word for word in verb]
    code, _, err = command(name, str(command.folder / "out"), *others)
    assert code == 2
    assert "holds answers about images and no images of its own" in err
