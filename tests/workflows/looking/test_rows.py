"""Rows with images become questions; a row at fault is rejected and its neighbors are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.pictures import encoded, noise
from tests.support.toy_job import (
    LOOK,
    bytes_of,
    faults_of,
    make_job,
    make_look_job,
    manifest_of,
    plan_job,
    rejected_of,
    render,
    write_prompts,
)
from workflows.looking.rows import read_look_shard
from workflows.prompts import PromptsError

GOOD, BROKEN = encoded(noise()), encoded(noise())[:300]


def read(tmp_path: Path, columns: dict[str, Any], **look: Any):
    path = write_prompts(tmp_path / "in/images.parquet", columns)
    job = make_look_job(
        path, tmp_path / "out", look=dataclasses.replace(LOOK, root=str(tmp_path), **look), shard_rows=100
    )
    (shard,) = plan_job(job).remaining_shards()
    return read_look_shard(job, shard)


def test_a_row_asks_its_own_question_or_the_jobs(tmp_path: Path) -> None:
    rows = read(tmp_path, {"image": [GOOD] * 4, "question": ["Is it red? Answer Yes or\nno.", None, " ", "what?"]})
    assert [request.prompt for request in rows.requests] == [
        "Is it red? Answer Yes or\nno.",
        LOOK.question,
        LOOK.question,
        "what?",
    ]
    assert [request.is_scored for request in rows.requests] == [True, False, False, False]
    assert [request.image_id for request in rows.requests] == [f"images-00000000{row}" for row in range(4)]


def test_every_question_is_scored_if_the_job_says_so(tmp_path: Path) -> None:
    rows = read(tmp_path, {"image": [GOOD] * 2, "question": ["what?", None]}, scores_all=True)
    assert [request.is_scored for request in rows.requests] == [True, True]


def test_rows_at_fault_are_rejected_and_their_neighbors_are_not(tmp_path: Path) -> None:
    columns = {
        "id": ["a", "a", "c", "../d", "e", "f"],
        "image": [GOOD, GOOD, BROKEN, GOOD, None, GOOD],
        "question": [None, None, "what?", None, None, "w" * 10_001],
    }
    rows = read(tmp_path, columns)
    assert [request.image_id for request in rows.requests] == ["a"]
    assert [(row.row, row.reason.partition(",")[0]) for row in rows.rejected] == [
        (1, "id must be unique"),
        (2, "the image cannot be decoded: image file is truncated"),
        (3, "id must be printable text without / or \\ that does not start with a dot"),
        (4, "image is null"),
        (5, "question must have at most 10"),
    ]
    assert rows.rejected[1].prompt == "what?"


def test_a_job_of_images_commits_answers_and_carries_the_other_columns(tmp_path: Path) -> None:
    columns = {
        "id": ["a", "b", "c", "d"],
        "image": [GOOD, BROKEN, GOOD, GOOD],
        "question": ["Is it red? Answer yes or no.", None, "toy:blind yes or no", None],
        "answer": ["mine"] * 4,
        "prompt": ["a red square"] * 4,
        "seed": [1, 2, 3, 4],
    }
    job = make_look_job(write_prompts(tmp_path / "in/images.parquet", columns), tmp_path / "out")
    assert [(receipt.num_images, receipt.num_rejected) for receipt in render(job)] == [(2, 2)]
    first, last = manifest_of(job)
    assert (first["image_id"], first["source_answer"], first["prompt"], first["seed"]) == (
        "a",
        "mine",
        "a red square",
        1,
    )
    assert 0 <= first["score"] <= 1
    assert first["answer"].startswith("a gradient from #")
    assert (first["width"], first["height"], first["image"], first["score_kind"]) == (40, 30, None, "hash")
    assert (last["score"], last["score_kind"], last["question"]) == (None, None, LOOK.question)
    assert {row["prompt_id"]: row["reason"] for row in rejected_of(job)} == {
        "b": "the image cannot be decoded: image file is truncated",
        "c": "the model's numbers became NaN or infinite",
    }
    assert faults_of(job) == []
    assert not any(name.startswith("images/") for name in bytes_of(tmp_path / "out"))


def test_a_finished_job_has_nothing_left_and_new_files_are_added(tmp_path: Path) -> None:
    write_prompts(tmp_path / "in/a.parquet", {"image": [GOOD], "tag": [1]})
    job = make_look_job(tmp_path / "in", tmp_path / "out")
    render(job)
    before = bytes_of(tmp_path / "out")
    assert render(job) == []
    write_prompts(tmp_path / "in/b.parquet", {"image": [GOOD] * 2, "tag": [2, 3]})
    render(job)
    assert [row["tag"] for row in manifest_of(job)] == [1, 2, 3]
    assert bytes_of(tmp_path / "out").items() >= before.items()
    assert faults_of(job) == []


def test_the_images_of_another_output_are_looked_at(tmp_path: Path) -> None:
    rendered = make_job(write_prompts(tmp_path / "p.parquet", {"prompt": ["a fox", "an owl"]}), tmp_path / "renders")
    render(rendered)
    look = dataclasses.replace(LOOK, root=str(tmp_path / "renders"), scores_all=True)
    job = make_look_job(tmp_path / "renders/manifest", tmp_path / "out", look=look)
    render(job)
    answers, images = manifest_of(job), manifest_of(rendered)
    assert [row["image_sha256"] for row in answers] == [row["image_sha256"] for row in images]
    assert [row["image"] for row in answers] == [row["image"] for row in images]
    assert [row["prompt"] for row in answers] == ["a fox", "an owl"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["a"]}, "has no column `image`; its columns are prompt"),
        ({"image": [1]}, "column `image` of .* must hold locations of images"),
        ({"image": ["a"], "question": [1]}, "column `question` of .* must hold text"),
        ({"image": pa.array([{"url": "a"}])}, "column `image` of .* must hold locations of images"),
    ],
)
def test_files_without_images_are_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PromptsError, match=message):
        read(tmp_path, columns)
