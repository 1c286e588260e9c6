"""Judged jobs on a real Ray: the same images are kept whatever the batch size, the actors and their failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from tests.support.checkpoints import TINY
from tests.support.faulty_actor import FaultyActor, marks_of, pids_of
from tests.support.recording_cluster import RecordingCluster
from tests.support.toy_job import faults_of, judge, make_job, manifest_of, plan_job, recipe, rejected_of, write_prompts
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import render_shards
from workflows.dispatch.pool import Limits
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob, Workers
from workflows.output.claim import claim_output
from workflows.storage.store import Storage
from workflows.verify.replay import replay_images

pytestmark = pytest.mark.usefixtures("ray_cluster")

JUDGED = recipe(judge=judge(best_of=3, retry_below=0.7, max_tries=3, caption_tokens=6), images_per_prompt=2)


def render(job: RenderJob, cluster: Cluster | None = None) -> Progress:
    claim_output(job, {})
    progress = Progress()
    render_shards(job, plan_job(job), cluster or Cluster(), progress, Limits(backoff_seconds=0.1))
    return progress


def kept(job: RenderJob) -> dict[str, dict[str, Any]]:
    """Every row of the manifest by its image, without the time and the place of its image."""
    rows = {row["image_id"]: row | {"created_at": None, "image": None} for row in manifest_of(job)}
    assert len(rows) == len(manifest_of(job)), "an image is in the manifest twice"
    return rows


def ended_before(job: RenderJob, image_ids: set[str]) -> None:
    """Let `fault:exit-once` end no actor over these requests."""
    marks_of(job).mkdir()
    for image_id in image_ids:
        (marks_of(job) / image_id).touch()


def test_batches_actors_and_failures_change_neither_the_kept_images_nor_their_scores(tmp_path: Path) -> None:
    """One run is calm. In the other, an actor ends over the second candidate of an image."""
    words = {5: "fault:exit-once", 9: "toy:nan", 12: "toy:blind"}
    columns = {"id": [f"row{n}" for n in range(16)], "prompt": [f"prompt {n} {words.get(n, '')}" for n in range(16)]}
    path = write_prompts(tmp_path / "prompts.parquet", columns)
    one = make_job(path, tmp_path / "one", recipe=JUDGED, shard_rows=16, workers=Workers(max=1, batch_size=7))
    two = make_job(path, tmp_path / "two", recipe=JUDGED, shard_rows=3, workers=Workers(max=2, batch_size=2))
    candidates = {f"row5_{index}#{candidate}" for index in range(2) for candidate in range(9)}
    ended_before(one, candidates)
    ended_before(two, candidates - {"row5_1#1"})

    calm = render(one, RecordingCluster(FaultyActor))
    render(two, RecordingCluster(FaultyActor))

    assert len(pids_of(one)) == 1 < len(pids_of(two))
    assert kept(one) == kept(two)
    assert {row["reason"] for row in rejected_of(one)} == {row["reason"] for row in rejected_of(two)}
    assert len(kept(one)) == 28
    assert faults_of(one) == faults_of(two) == []
    rows = kept(one).values()
    assert calm.num_candidates == sum(len(row["candidate_seeds"]) for row in rows)
    assert calm.num_rerolls == sum(len(row["candidate_seeds"]) // 3 - 1 for row in rows) > 0
    assert calm.looking_seconds > 0


def test_a_row_whose_judging_fails_its_actor_is_found_and_rejected(tmp_path: Path) -> None:
    prompts = ["a", "b", "toy:look-bug", "d"]
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", {"id": list("abcd"), "prompt": prompts}),
        tmp_path / "out",
        recipe=JUDGED,
        workers=Workers(max=1, max_tries=1),
    )

    render(job)

    assert {row["prompt_id"] for row in manifest_of(job)} == {"a", "b", "d"}
    assert "RuntimeError: a bug met an image" in rejected_of(job)[0]["reason"]


def test_a_model_judges_the_images_that_it_renders(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"id": ["a", "b"], "prompt": ["a red cat", "<|User|>"]})
    spec = {
        "prompts": path,
        "output": str(tmp_path / "out"),
        "model": {"checkpoint": str(TINY)},
        "judge": {"best_of": 2, "caption": True, "caption_tokens": 3},
        "workers": {"max": 1, "gpus_per_actor": 0},
    }
    job = resolve(check_fields(spec), num_gpus=0)

    render(job)

    (row,) = manifest_of(job)
    assert row["judge_model"] == str(TINY)
    assert row["judge_score"] == max(row["candidate_scores"])
    assert len(set(row["candidate_scores"])) == 2
    reason = "the judge's question: a question must not contain the model's special token <|User|>"
    assert [rejected["reason"] for rejected in rejected_of(job)] == [reason]
    (replay,) = replay_images(Storage(job.output), 1, 0)
    assert (replay.same_bytes, replay.score) == (True, row["judge_score"])
