"""A job that looks at its images, from its prompts to a manifest that verify, repair, retry and replay understand."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.engines import open_engine_and_looker
from actors.errors import OtherWeightsError
from actors.noise import candidate_seed, derive_seed
from actors.recipe import Judge
from actors.request import ImageRequest, RenderedImage
from actors.toy import ToyEngine
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from tests.support.checkpoints import FLOW, TINY
from tests.support.toy_job import (
    JUDGE,
    faults_of,
    judge,
    make_job,
    manifest_of,
    plan_job,
    recipe,
    rejected_of,
    render,
    render_shard,
    write_prompts,
)
from workflows.job import Images, RenderJob
from workflows.output.claim import OtherJobError, check_claim, claim_output, read_claim
from workflows.output.layouts import LAYOUTS
from workflows.output.manifest import JUDGE_SCHEMA, MANIFEST_SCHEMA, committed_parts, read_table
from workflows.output.parts import read_part
from workflows.retry_rejected import plan_retries
from workflows.storage.store import Storage
from workflows.verify.check import verify_output
from workflows.verify.repair import repair_output
from workflows.verify.replay import Replay, replay_images

BEST = judge(best_of=3, retry_below=0.8, max_tries=3, caption_tokens=4)
PROMPTS = {"id": list("abcdef"), "prompt": ["a", "b", "toy:nan", "toy:blind", "e", "toy:tie"]}


def judged(folder: Path, columns: dict[str, Any] = PROMPTS, judge: Judge | None = BEST, **changes: Any) -> RenderJob:
    """A job over these rows that looks at its images."""
    prompts = write_prompts(folder / "prompts.parquet", columns)
    return make_job(prompts, folder / "out", **{"recipe": recipe(images_per_prompt=2, judge=judge), **changes})


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """An output with judged images in two shards, and rejected ones."""
    job = judged(tmp_path)
    render(job)
    return job


def edit(job: RenderJob, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the first row of the manifest."""
    path = sorted(Path(job.output, "manifest").glob("*.parquet"))[0]
    table = pq.read_table(path)
    first, *others = table.to_pylist()
    pq.write_table(pa.Table.from_pylist([first | change(first), *others], schema=table.schema), path)


def replays_of(job: RenderJob) -> list[Replay]:
    return list(replay_images(Storage(job.output), 100, 0))


# ---- the manifest ----------------------------------------------------------------------------------------------------


def test_the_manifest_has_every_candidate_and_the_seed_of_the_kept_one(job: RenderJob) -> None:
    rows = {row["image_id"]: row for row in manifest_of(job)}

    assert list(rows) == ["a_0", "a_1", "b_0", "b_1", "e_0", "e_1", "f_0", "f_1"]
    for row in rows.values():
        seeds, scores = row["candidate_seeds"], row["candidate_scores"]
        first = derive_seed(0, row["prompt_id"], row["image_index"])
        assert seeds == [candidate_seed(first, candidate) for candidate in range(len(scores))]
        assert (row["judge_score"], row["seed"]) == (max(scores), seeds[row["candidate"]])
        assert scores.index(max(scores)) == row["candidate"]
        assert len(scores) in (3, 6, 9)
        assert row["judge_caption"].startswith("a gradient from #")
        assert (row["judge_question"], row["judge_model"], row["judge_score_kind"]) == (
            "Is this {prompt}?",
            "toy",
            "hash",
        )
    assert {len(row["candidate_seeds"]) for row in rows.values()} > {3}
    assert (rows["f_0"]["candidate"], rows["f_0"]["candidate_scores"]) == (0, [0.5] * 9)


def test_an_image_without_a_score_is_rejected_with_its_reason(job: RenderJob) -> None:
    seed = derive_seed(0, "d", 0)

    reasons = {row["image_id"]: row["reason"] for row in rejected_of(job)}

    assert reasons == {
        "c_0": "the model's numbers became NaN",
        "c_1": "the model's numbers became NaN",
        "d_0": f"the judge's score of candidate 0 (seed {seed}) is NaN",
        "d_1": reasons["d_1"],
    }


def test_a_judge_that_only_scores_changes_no_image(tmp_path: Path) -> None:
    scored, plain = judged(tmp_path / "scored", judge=judge()), judged(tmp_path / "plain", judge=None)
    render(scored)
    render(plain)

    columns = ("image_id", "seed", "row_seed", "codes", "perceptual_hash")
    rows = [{name: row[name] for name in columns} for row in manifest_of(plain) if row["prompt_id"] != "d"]
    assert [{name: row[name] for name in columns} for row in manifest_of(scored)] == rows


def test_a_job_without_a_judge_has_no_trace_of_one(tmp_path: Path) -> None:
    job = judged(tmp_path, {**PROMPTS, "candidate": ["x"] * 6, "judge_score": ["high"] * 6}, judge=None)
    render(job)

    part = Storage(job.output).names("manifest")[0].removesuffix(".parquet")
    table = read_table(Storage(job.output), f"manifest/{part}.parquet")

    assert table.column_names == [*MANIFEST_SCHEMA.names, "candidate", "judge_score"]
    assert "judge" not in json.loads(Path(job.output, "job.json").read_text())["recipe"]
    assert b"judge" not in b"".join(table.schema.metadata)
    assert read_part(Storage(job.output), part)["candidate"].to_pylist() == ["x"] * table.num_rows
    assert read_part(Storage(job.output), part, ["candidate"])["candidate"].to_pylist() == [None] * table.num_rows
    assert faults_of(job) == []


def test_columns_of_prompt_files_give_way_to_those_of_the_judge(tmp_path: Path) -> None:
    job = judged(tmp_path, {**PROMPTS, "candidate": ["x"] * 6})
    render(job)

    row = manifest_of(job)[0]

    assert list(row)[len(MANIFEST_SCHEMA) :] == [*JUDGE_SCHEMA.names, "source_candidate"]
    assert row["source_candidate"] == "x"


def test_the_seed_of_a_row_is_that_of_its_candidate_0(tmp_path: Path) -> None:
    columns = {"id": ["a"], "prompt": ["a"], "image_seed": [7]}
    job = judged(tmp_path, columns, recipe=recipe(judge=judge(best_of=3)))
    render(job)

    (row,) = manifest_of(job)

    assert row["candidate_seeds"] == [7, candidate_seed(7, 1), candidate_seed(7, 2)]
    assert row["row_seed"] is None
    assert faults_of(job) == []


def test_a_png_shows_the_kept_seed_and_its_score(job: RenderJob) -> None:
    row = manifest_of(job)[0]

    parameters = Image.open(Path(job.output, row["image"])).text["parameters"]

    assert f"Seed: {row['seed']}, " in parameters
    assert parameters.endswith(f", Judge score: {row['judge_score']:.4f}")


# ---- resume, verify, repair, retry -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            judge(question="Is it {prompt}?"),
            r'judge.question = "Is this {prompt}\?", this job has "Is it {prompt}\?"',
        ),
        (dataclasses.replace(BEST, best_of=4), "judge.best_of = 3, this job has 4"),
        (dataclasses.replace(BEST, retry_below=0.5), "judge.retry_below = 0.8, this job has 0.5"),
        (dataclasses.replace(BEST, weights_sha256="0"), "recipe.judge.weights_sha256 = "),
        (None, r'judge.question = "Is this {prompt}\?", this job has null'),
    ],
)
def test_a_resume_needs_the_same_judge(job: RenderJob, other: Judge | None, message: str) -> None:
    changed = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, judge=other))

    with pytest.raises(OtherJobError, match=message):
        check_claim(changed)
    check_claim(job)


def test_a_judge_is_not_added_to_an_output(tmp_path: Path) -> None:
    plain = judged(tmp_path, judge=None)
    render(plain)

    with pytest.raises(OtherJobError, match=r'judge.question = null, this job has "Is this {prompt}\?"'):
        check_claim(judged(tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_judged_output_is_whole_and_can_be_replayed(tmp_path: Path, layout: str) -> None:
    job = judged(tmp_path, images=Images(layout=layout, format="webp"))
    render(job)

    assert faults_of(job) == []
    assert [(replay.difference, replay.is_same, replay.same_score) for replay in replays_of(job)] == [
        ("", True, True)
    ] * 8
    assert {replay.score for replay in replays_of(job)} == {row["judge_score"] for row in manifest_of(job)}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: {"judge_score": 0.25}, "judge_score is 0.25, the highest of its candidate_scores is"),
        (lambda row: {"candidate": 9}, r"candidate is 9 of \d"),
        (lambda row: {"candidate": (row["candidate"] + 1) % 3}, "seed is"),
        (lambda row: {"seed": 1}, "seed is 1, its candidate_seeds have"),
        (lambda row: {"candidate_scores": row["candidate_scores"][1:]}, "candidate_scores, job.json asks for 3"),
        (
            lambda row: {"candidate_seeds": [5] * len(row["candidate_seeds"]), "seed": 5},
            "not derived from its row_seed",
        ),
        (lambda row: {"judge_question": "Is it nice?"}, "judge_question is 'Is it nice\\?', job.json has"),
        (lambda row: {"judge_looker": "toy-look-0"}, "judge_looker is 'toy-look-0', job.json has 'toy-look-1'"),
    ],
)
def test_verify_finds_columns_that_contradict_each_other(
    job: RenderJob, change: Callable[[dict[str, Any]], dict[str, Any]], fault: str
) -> None:
    edit(job, change)

    (found,) = faults_of(job)

    assert re.match(f"image a_0 of shard .*: .*{fault}", found)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ((0.1, 0.9, 0.2, 0.3, 0.4, 0.5), "it was re-rolled after a score of 0.9, judge.retry_below is 0.8"),
        ((0.1, 0.7, 0.2), "it was not re-rolled after a score of 0.7, judge.retry_below is 0.8"),
        (
            (0.1, 0.7),
            "it has 2 candidate_seeds and 2 candidate_scores, job.json asks for 3 for each of at most 3 tri",
        ),
    ],
)
def test_verify_finds_tries_that_the_job_did_not_ask_for(job: RenderJob, scores: tuple[float, ...], fault: str) -> None:
    first = derive_seed(0, "a", 0)
    seeds = [candidate_seed(first, candidate) for candidate in range(len(scores))]
    kept = scores.index(max(scores))
    edit(
        job,
        lambda row: {
            "seed": seeds[kept],
            "candidate": kept,
            "judge_score": scores[kept],
            "candidate_seeds": seeds,
            "candidate_scores": scores,
        },
    )

    (found,) = faults_of(job)

    assert re.match(f"image a_0 of shard .*: {fault}", found)


def test_an_image_with_a_wrong_verdict_is_repaired(job: RenderJob) -> None:
    before, storage = manifest_of(job), Storage(job.output)
    edit(job, lambda row: {"candidate_scores": [*row["candidate_scores"][:-1], 1.0]})
    plan = plan_job(job)
    findings = verify_output(storage, plan, job.recipe)

    repairs = repair_output(storage, read_claim(storage), plan, committed_parts(storage), findings.at_fault)
    render(job)

    assert repairs.num_images == 1
    assert faults_of(job) == []
    times = {"created_at": None, "image": None}
    rows = sorted((row | times for row in manifest_of(job)), key=lambda row: row["image_id"])
    assert rows == [row | times for row in before]


def test_a_retry_judges_the_images_that_were_rejected(job: RenderJob) -> None:
    class Fixed(ToyEngine):
        def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage]:
            prompts = [request.prompt.replace("toy:nan", "a") for request in requests]
            return super().render([dataclasses.replace(r, prompt=p) for r, p in zip(requests, prompts, strict=True)])

    plan, _ = plan_retries(Storage(job.output), plan_job(job).files)
    for shard in plan.remaining_shards():
        render_shard(job, shard, Fixed(job.recipe))

    rows = {row["image_id"]: row for row in manifest_of(job)}
    assert len(rows) == 10
    assert rows["c_0"]["candidate_seeds"][0] == derive_seed(0, "c", 0)
    assert faults_of(job) == []


def test_a_replay_finds_another_score(job: RenderJob) -> None:
    edit(job, lambda row: {"judge_score": 0.125})

    changed = {replay.image_id: replay for replay in replays_of(job) if not replay.is_same}

    assert list(changed) == ["a_0"]
    assert (changed["a_0"].same_pixels, changed["a_0"].same_score) == (True, False)
    assert changed["a_0"].score == max(manifest_of(job)[0]["candidate_scores"])


# ---- real models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", [None, TINY])
def test_a_model_judges_its_own_images_or_those_of_another(tmp_path: Path, judge: Path | None) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"id": ["a"], "prompt": ["a red cat"]})
    fields = {
        "prompts": path,
        "output": str(tmp_path / "out"),
        "model": {"checkpoint": str(FLOW)},
        "sampling": {"num_inference_steps": 2},
        "judge": {"best_of": 2, "caption": True, "caption_tokens": 3, "checkpoint": judge and str(judge)},
        "workers": {"gpus_per_actor": 0},
    }
    job = resolve(check_fields(fields), num_gpus=0)
    claim_output(job, {})

    (shard,) = plan_job(job).remaining_shards()
    render_shard(job, shard, *open_engine_and_looker(job.recipe, {}))

    (row,) = manifest_of(job)
    assert (row["judge_model"], row["judge_family"]) == (str(judge or FLOW), "janus" if judge else "janusflow")
    assert row["judge_score"] == max(row["candidate_scores"])
    assert len(set(row["candidate_scores"])) == 2
    assert all(0 <= score <= 1 for score in row["candidate_scores"])
    assert (row["judge_score_kind"], row["judge_caption"] is not None) == ("answer_strings", True)
    assert [(replay.same_bytes, replay.score) for replay in replays_of(job)] == [(True, row["judge_score"])]


def test_a_judge_with_other_weights_than_the_jobs_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(JUDGE, family="janus", checkpoint=str(TINY), prompt_format="janus-pro", is_own=False)

    with pytest.raises(OtherWeightsError, match="janus-tiny holds other weights now: their SHA-256 is"):
        open_engine_and_looker(recipe(judge=other), {})
