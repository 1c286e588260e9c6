"""Exports of outputs whose images were looked at: the judge's columns choose images, and go into the dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from tests.support.exports import export, finished, load_splits
from tests.support.toy_job import judge, make_job, make_look_job, manifest_of, recipe, write_prompts
from workflows.export.layouts.layout import ExportError
from workflows.export.rules import Rules
from workflows.job import RenderJob
from workflows.output.claim import claim_output
from workflows.storage.store import Storage


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """Three images of each prompt, each the best of two candidates."""
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {n}" for n in range(6)]})
    judged = recipe(images_per_prompt=3, judge=judge(best_of=2))
    return finished(make_job(prompts, tmp_path / "out", recipe=judged))


def test_the_score_of_the_judge_is_called_judge(job: RenderJob, tmp_path: Path) -> None:
    done = export(job, tmp_path / "ds", "parquet", rules=Rules(where=("judge >= 0",), top=1, by="judge"))

    best: dict[str, float] = {}
    for row in manifest_of(job):
        best[row["prompt_id"]] = max(row["judge_score"], best.get(row["prompt_id"], 0.0))
    rows = load_splits(tmp_path / "ds")["train"]
    assert {row["prompt_id"]: row["judge_score"] for row in rows} == best
    assert done.removed == {"--where judge >= 0": 0, "--top 1 --by judge": 12}


def test_pairs_have_what_the_judge_said_of_both_images(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "parquet", rules=Rules(pairs="judge"))

    scores = {row["image_id"]: row["judge_score"] for row in manifest_of(job)}
    rows = load_splits(tmp_path / "ds")["train"]
    assert len(rows) > 0
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[f"{side}_judge_score"] == row[f"score_{side}"] == scores[row[f"{side}_image_id"]]
        assert row["judge_question"] == job.recipe.judge.question
        assert "chosen_judge_question" not in row


def test_the_card_says_who_judged_and_takes_no_column_for_one_of_the_prompts(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "imagefolder")

    text = DatasetCard.load(tmp_path / "ds/README.md").text
    assert "| candidates per image | 2 |" in text
    assert "`judge_score`" in text
    assert "The prompt files had no columns except `prompt` and its settings." in text


def test_an_output_of_answers_holds_no_images_to_export(tmp_path: Path) -> None:
    job = make_look_job(write_prompts(tmp_path / "images.parquet", {"image": ["a.png"]}), tmp_path / "out")
    claim_output(job, {})
    Storage(job.output).write("manifest/part.parquet", b"")

    with pytest.raises(ExportError, match="holds answers about images that you have, and no images to export"):
        export(job, tmp_path / "ds", "parquet")
