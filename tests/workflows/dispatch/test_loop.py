"""Jobs on a real Ray: every image is made once, with the same bytes as without Ray, despite failures."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.checkpoint.open import open_checkpoint, weights_digest
from actors.errors import CheckpointError
from actors.request import ImageRequest, RenderedImage
from tests.support import toy_job
from tests.support.command import wait_until
from tests.support.faulty_actor import BrokenActor, FaultyActor, calls_of, pids_of
from tests.support.recording_cluster import ProgressWithAlarm, RecordingCluster
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import make_job, manifest_of, plan_job, recipe, rejected_of, write_prompts
from workflows.dispatch.actor import SHARDS_IN_FLIGHT
from workflows.dispatch.bisection import BisectionLimits
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.failures import DriverNodeLostError
from workflows.dispatch.loop import render_shards
from workflows.dispatch.pool import EngineNeverLoadedError, Limits
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import ShardFailedError
from workflows.job import RenderJob, Workers
from workflows.output.claim import claim_output
from workflows.storage.store import Storage
from workflows.verify.check import verify_output

pytestmark = pytest.mark.usefixtures("ray_cluster")

DATA = Path(__file__).parents[2] / "data"
ONE_ACTOR = Workers(max=1, batch_size=2)
SLOW = "toy:sleep=0.05"
WAIT_SECONDS = 120
OUTAGE_SECONDS = 12  # longer than one call of s3fs, which gives up after seven to ten


def render(job: RenderJob, cluster: Cluster | None = None, progress: Progress | None = None, **limits: Any) -> Progress:
    """Claim the output and render what is missing in it on the Ray that is running."""
    claim_output(job, {})
    progress = progress or Progress()
    render_shards(job, plan_job(job), cluster or Cluster(), progress, Limits(**limits))
    return progress


def hashes_of(job: RenderJob) -> dict[str, str]:
    rows = manifest_of(job)
    hashes = {row["image_id"]: row["image_sha256"] for row in rows}
    assert len(hashes) == len(rows), "an image is in the manifest twice"
    return hashes


def hashes_without_ray(job: RenderJob, output: Path) -> dict[str, str]:
    """The hashes of the same prompts rendered in this process, into another output."""
    calm = make_job(job.prompts, output, recipe=job.recipe, storage=job.storage)
    toy_job.render(calm)
    return hashes_of(calm)


def is_whole(job: RenderJob) -> bool:
    """Whether every file, hash and key matches the manifest and no prompt row is missing."""
    return verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe).is_whole


def num_committed(job: RenderJob) -> int:
    return len(Storage(job.output, job.storage).names("manifest"))


def numbered(num_rows: int, words: str = "") -> dict[str, list[Any]]:
    """Columns of a prompt file: an id and a prompt per row."""
    return {"id": [f"row{n}" for n in range(num_rows)], "prompt": [f"prompt {n} {words}" for n in range(num_rows)]}


# ---- the output ------------------------------------------------------------------------------------------------------


def test_every_image_is_rendered_and_bad_rows_do_not_affect_their_neighbors(tmp_path: Path) -> None:
    columns = numbered(40)
    columns["prompt"][11], columns["prompt"][12], columns["prompt"][13] = None, " ", "toy:nan"
    columns["cfg_weight"] = [None] * 20 + [11.0] + [None] * 19
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns),
        tmp_path / "out",
        recipe=recipe(images_per_prompt=2),
        shard_rows=7,
    )

    progress = render(job)

    assert hashes_of(job) == hashes_without_ray(job, tmp_path / "calm")
    assert {row["prompt_id"] for row in manifest_of(job)} == {f"row{n}" for n in range(40) if n not in (11, 12, 13, 20)}
    reasons = {(row["prompt_id"], row["image_id"]): row["reason"] for row in rejected_of(job)}
    assert reasons == {
        ("row11", None): "prompt is null",
        ("row12", None): "prompt is empty",
        ("row13", "row13_0"): "the model's numbers became NaN",
        ("row13", "row13_1"): "the model's numbers became NaN",
        ("row20", None): reasons["row20", None],
    }
    assert "cfg_weight" in reasons["row20", None]
    assert is_whole(job)
    assert (progress.num_images, progress.num_rejected, progress.num_shards) == (72, 8, 6)
    assert (progress.num_actors, progress.num_actors_lost, progress.num_retries) == (0, 0, 0)


def test_prompts_and_output_on_s3_give_the_same_bytes(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    local = write_prompts(tmp_path / "prompts.parquet", numbered(40))
    s3_server.filesystem().put(local, f"{s3_folder}/prompts/prompts.parquet")
    job = make_job(
        f"{s3_folder}/prompts",
        f"{s3_folder}/out",
        storage=s3_server.storage_options,
        recipe=recipe(images_per_prompt=2),
        shard_rows=9,
    )

    render(job)

    assert hashes_of(job) == hashes_without_ray(make_job(local, "", recipe=job.recipe), tmp_path / "calm")
    assert is_whole(job)


def test_files_shards_batches_and_the_number_of_actors_change_no_image(tmp_path: Path) -> None:
    columns = numbered(30)
    order = random.Random(0).sample(range(30), 30)
    parts = [order[:4], order[4:23], order[23:]]
    for name, rows in zip(("c", "a", "b"), parts, strict=True):
        write_prompts(tmp_path / "cut" / f"{name}.parquet", {k: [v[n] for n in rows] for k, v in columns.items()})
    whole = write_prompts(tmp_path / "whole" / "prompts.parquet", columns)
    settings = {"recipe": recipe(images_per_prompt=2)}
    one = make_job(whole, tmp_path / "one", shard_rows=30, workers=Workers(max=1, batch_size=16), **settings)
    two = make_job(tmp_path / "cut", tmp_path / "two", shard_rows=3, workers=Workers(max=2, batch_size=5), **settings)

    render(one)
    render(two)

    assert hashes_of(one) == hashes_of(two)
    assert len(hashes_of(one)) == 60


def test_a_sweep_uses_one_seed_at_every_weight_and_a_rows_values_override_the_jobs(tmp_path: Path) -> None:
    columns = numbered(6) | {
        "cfg_weight": [None, None, 3.0, None, None, None],
        "seed": [None, None, None, 77, None, None],
        "temperature": [None, None, None, None, 0.5, None],
    }
    prompts = write_prompts(tmp_path / "prompts.parquet", columns)
    job = make_job(prompts, tmp_path / "out", recipe=recipe(images_per_prompt=2, cfg_weights=(1.0, 5.0, 9.0)))
    other_seed = make_job(prompts, tmp_path / "other", recipe=recipe(images_per_prompt=2, seed=77))

    render(job)
    toy_job.render(other_seed)

    rows = manifest_of(job)
    seeds = {(row["prompt_id"], row["image_index"]): set() for row in rows}
    for row in rows:
        seeds[row["prompt_id"], row["image_index"]].add(row["seed"])
    assert all(len(of_all_weights) == 1 for of_all_weights in seeds.values())
    assert len(set.union(*seeds.values())) == 12
    weights = {n: sorted({row["cfg_weight"] for row in rows if row["prompt_id"] == f"row{n}"}) for n in range(6)}
    assert weights == {n: [3.0] if n == 2 else [1.0, 5.0, 9.0] for n in range(6)}
    of_seed_77 = {(row["prompt_id"], row["image_index"]): row["seed"] for row in manifest_of(other_seed)}
    assert seeds["row3", 1] == {of_seed_77["row3", 1]}
    assert {row["temperature"] for row in rows if row["prompt_id"] == "row4"} == {0.5}
    assert len(rows) == 5 * 6 + 2
    assert is_whole(job)


def test_the_driver_reads_no_prompt_and_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", numbered(8)), tmp_path / "out")
    request = toy_job.rows_of(job)[0].requests[0]

    def refuse(self: object, state: object) -> None:
        raise AssertionError(f"the driver received a {type(self).__name__}")

    for record in (ImageRequest, RenderedImage):
        monkeypatch.setattr(record, "__setstate__", refuse)
    with pytest.raises(AssertionError, match="received a ImageRequest"):
        pickle.loads(pickle.dumps(request))

    render(job)

    assert num_committed(job) == 2


# ---- the pool --------------------------------------------------------------------------------------------------------


def test_actors_work_at_the_same_time_and_those_without_room_delay_nothing(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", numbered(60, "toy:sleep=0.1"))
    job = make_job(prompts, tmp_path / "out", shard_rows=5, workers=Workers(max=7, batch_size=5))

    cluster = RecordingCluster(FaultyActor)

    render(job, cluster)

    assert is_whole(job)
    assert len(cluster.handles) == 7
    calls = calls_of(job)
    pids = {call.pid for call in calls}
    assert 2 <= len(pids) <= 4  # the cluster has four CPUs
    first, second = list(pids)[:2]
    assert any(
        call.start < other.end and other.start < call.end
        for call in calls
        for other in calls
        if (call.pid, other.pid) == (first, second)
    )


def test_columns_that_the_prompt_file_carries_do_not_reach_the_actor(tmp_path: Path) -> None:
    columns = numbered(6) | {"caption": [f"a secret caption {n}" for n in range(6)]}
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", workers=ONE_ACTOR)

    render(job, RecordingCluster(FaultyActor))

    calls = calls_of(job)
    assert sorted(request.prompt_id for call in calls for request in call.argument) == columns["id"]
    assert {type(request) for call in calls for request in call.argument} == {ImageRequest}
    assert not any(b"a secret caption" in pickle.dumps(call) for call in calls)
    assert [row["caption"] for row in manifest_of(job)] == columns["caption"]


def test_an_actor_waits_while_the_cluster_has_no_room(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", numbered(4)), tmp_path / "out", workers=ONE_ACTOR)
    reserved = ray.util.placement_group([{"CPU": 4}])
    ray.get(reserved.ready())

    class WaitingProgress(Progress):
        has_waited = False

        def room_is_lacking(self, num_actors: int) -> None:
            super().room_is_lacking(num_actors)
            if self.slots[0].state == "waiting":
                self.has_waited = True
                ray.util.remove_placement_group(reserved)

    progress = WaitingProgress()
    render(job, progress=progress, watch_seconds=0.1)

    assert progress.has_waited
    assert progress.last_trouble.startswith("no actor has room: each asks for 1 CPU; the cluster has 4 CPUs, 0 GPUs")
    assert is_whole(job)


def test_a_run_on_a_node_that_is_lost_ends_instead_of_waiting_for_actors(tmp_path: Path) -> None:
    """If an actor's death arrives first, Ray may leave the driver alive, whose actors nothing can start."""
    job = make_job(write_prompts(tmp_path / "prompts.parquet", numbered(4)), tmp_path / "out", workers=ONE_ACTOR)
    reserved = ray.util.placement_group([{"CPU": 4}])
    ray.get(reserved.ready())

    answers = [True, False]

    class LostNode(RecordingCluster):
        def is_own_node_alive(self) -> bool:
            assert super().is_own_node_alive()
            return answers.pop(0)

    try:
        with pytest.raises(DriverNodeLostError, match="Ray died on the driver's own machine"):
            render(job, LostNode(), watch_seconds=0.1)
    finally:
        ray.util.remove_placement_group(reserved)

    assert answers == []


def test_an_actor_that_is_starting_its_process_does_not_lack_room(tmp_path: Path) -> None:
    job = make_job(tmp_path / "prompts.parquet", tmp_path / "out", workers=ONE_ACTOR)

    class Starting:
        def __init__(self, go_on: Path) -> None:
            while not go_on.exists():
                time.sleep(0.05)

    actors = [ray.remote(Starting).options(num_cpus=3).remote(tmp_path / "go") for _ in range(2)]
    try:
        wait_until(lambda: Cluster().num_lacking_room(job, 3.0) == 1)  # the cluster has four CPUs: one has its room
        assert Cluster().num_lacking_room(job, 2.0) == 0
    finally:
        for actor in actors:
            ray.kill(actor)


def test_a_job_runs_next_to_others_that_hold_cpus(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", numbered(4)), tmp_path / "out", workers=ONE_ACTOR)
    held = ray.util.placement_group([{"CPU": 3}])
    ray.get(held.ready())
    try:
        render(job)
    finally:
        ray.util.remove_placement_group(held)

    assert is_whole(job)


# ---- lost actors -----------------------------------------------------------------------------------------------------


def test_an_actor_that_is_killed_is_replaced_and_every_image_is_made_once(tmp_path: Path) -> None:
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", numbered(40, SLOW)),
        tmp_path / "out",
        shard_rows=8,
        workers=ONE_ACTOR,
    )
    progress = ProgressWithAlarm(10, lambda: os.kill(pids_of(job)[0], signal.SIGKILL))

    render(job, RecordingCluster(FaultyActor), progress)

    assert hashes_of(job) == hashes_without_ray(job, tmp_path / "calm")
    assert is_whole(job)
    assert len(pids_of(job)) == 2
    assert (progress.num_actors_lost, progress.num_images) == (1, 40)
    assert 1 <= progress.num_retries <= SHARDS_IN_FLIGHT
    assert progress.last_trouble == "The actor is dead because its worker process has died."


# ---- rows that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("toy:exit", "The actor is dead because its worker process has died."),
        ("toy:cuda", "DeviceLostError: RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("toy:bug", "RuntimeError: a bug met image row9_0"),
    ],
)
def test_a_row_that_fails_its_actors_is_found_and_its_neighbors_are_rendered(
    tmp_path: Path, word: str, reason: str
) -> None:
    columns = numbered(24)
    columns["prompt"][9] = word
    prompts = write_prompts(tmp_path / "prompts.parquet", columns)
    job = make_job(prompts, tmp_path / "out", shard_rows=8, workers=Workers(max=1, batch_size=3, max_tries=2))
    cluster = RecordingCluster()

    progress = render(job, cluster)

    columns["prompt"][9] = "fine"
    calm = make_job(write_prompts(tmp_path / "fine.parquet", columns), "")
    hashes = hashes_without_ray(calm, tmp_path / "calm")
    del hashes["row9_0"]
    assert hashes_of(job) == hashes
    (rejected,) = rejected_of(job)
    assert (rejected["prompt_id"], rejected["image_id"]) == ("row9", "row9_0")
    assert rejected["reason"] == f"failed 2 times when rendered by itself, where other prompts succeeded: {reason}"
    assert is_whole(job)
    assert (progress.num_images, progress.num_rejected) == (23, 1)
    # One failure per level of the bisection and one more at its end; without a known good row the first may not count.
    assert len(cluster.handles) <= 1 + 2 + 3 + 2


def test_an_engine_that_fails_over_every_row_stops_the_job_with_its_traceback(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["toy:bug"] * 3})
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=1, max_tries=2))

    with pytest.raises(RuntimeError, match=r"(?s)actors/toy.py.*in _render_one.*a bug met image"):
        render(job)

    assert num_committed(job) == 0


def test_a_shard_that_cannot_be_rendered_is_skipped_if_the_job_allows_it_and_named_at_the_end(tmp_path: Path) -> None:
    columns = numbered(16)
    columns["prompt"][8:12] = ["toy:exit"] * 4
    prompts = write_prompts(tmp_path / "prompts.parquet", columns)
    workers = Workers(max=1, batch_size=2, max_tries=1, on_shard_failure="skip")
    job = make_job(prompts, tmp_path / "out", workers=workers)
    (bad,) = [shard.id for shard in plan_job(job).remaining_shards() if shard.start == 8]

    with pytest.raises(ShardFailedError, match=rf"shards skipped .*: 1\nshard {bad} failed 1 times, .*bisection"):
        render(job, bisection=BisectionLimits(max_failures=3))

    assert num_committed(job) == 3


def test_a_shard_that_cannot_be_rendered_stops_the_job_by_name(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["toy:exit", "toy:exit too"]})
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=1, max_tries=1))
    (only,) = [shard.id for shard in plan_job(job).remaining_shards()]

    with pytest.raises(
        ShardFailedError, match=rf"shard {only} failed 1 times, .*4 tries in a row .*: The actor is dead"
    ):
        render(job)


def test_the_only_row_to_render_is_rejected_if_a_plain_prompt_succeeds(tmp_path: Path) -> None:
    columns = {"prompt": ["toy:exit", None]}
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", workers=Workers(max_tries=1))

    render(job)

    bad, empty = rejected_of(job)[::-1]
    assert "by itself, where other prompts succeeded: The actor is dead" in bad["reason"]
    assert empty["reason"] == "prompt is null"
    assert is_whole(job)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_engine_that_also_fails_over_a_plain_prompt_stops_the_job(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a prompt"]})
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=1, max_tries=1))

    with pytest.raises(ShardFailedError, match="3 tries in a row failed and no other row was rendered"):
        render(job, RecordingCluster(BrokenActor), bisection=BisectionLimits(max_failures_in_a_row=3))


def test_running_out_of_memory_halves_the_batch_and_changes_no_image(tmp_path: Path) -> None:
    columns = numbered(12, "fault:memory=2")
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", workers=Workers(max=1, batch_size=8)
    )
    cluster = RecordingCluster(FaultyActor)

    progress = render(job, cluster)

    assert hashes_of(job) == hashes_without_ray(job, tmp_path / "calm")
    assert (len(cluster.handles), progress.num_retries) == (1, 0)


def test_a_stuck_actor_is_reported_and_killed_and_another_renders_its_shards(tmp_path: Path) -> None:
    columns = numbered(12)
    columns["prompt"][5] += " fault:stall-once"
    workers = Workers(max=1, batch_size=2, stall_minutes=2 / 60)
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", workers=workers)
    cluster = RecordingCluster(FaultyActor)

    progress = render(job, cluster)

    assert hashes_of(job) == hashes_without_ray(job, tmp_path / "calm")
    assert len(cluster.handles) == 2
    assert progress.last_trouble.startswith("stuck: process ")
    assert "(faulty_actor.py:" in progress.last_trouble
    assert (
        plan_job(make_job(job.prompts, tmp_path / "other")).files[0].name.removesuffix(".parquet")
        in progress.last_trouble
    )


def test_an_idle_actor_also_renders_a_straggler_which_counts_once(tmp_path: Path) -> None:
    columns = numbered(32)
    columns["prompt"][1] += " fault:stall-once"
    prompts = write_prompts(tmp_path / "prompts.parquet", columns)
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=2, batch_size=2))
    cluster = RecordingCluster(FaultyActor)

    progress = render(job, cluster, late_seconds=1)

    assert hashes_of(job) == hashes_without_ray(job, tmp_path / "calm")
    assert (progress.num_images, progress.num_shards, progress.num_retries) == (32, 8, 0)
    assert len(cluster.handles) == 2


# ---- storage ---------------------------------------------------------------------------------------------------------


def test_a_storage_outage_is_retried_and_no_image_is_rendered_twice(
    tmp_path: Path, s3_server: S3Server, s3_folder: str
) -> None:
    if not s3_server.keeps_objects:
        pytest.skip(f"{s3_server.name} forgets its objects when it is killed")
    prompts = write_prompts(tmp_path / "prompts.parquet", numbered(24, SLOW))
    output = f"{s3_folder}/out"
    job = make_job(prompts, output, storage=s3_server.storage_options, shard_rows=8, workers=ONE_ACTOR)

    has_started = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        rendering = thread.submit(render, job, progress=ProgressWithAlarm(6, has_started.set))
        assert has_started.wait(WAIT_SECONDS)
        s3_server.kill()
        time.sleep(OUTAGE_SECONDS)
        s3_server.start()  # in this thread, because the server ends with the thread that starts it
        progress = rendering.result()

    assert hashes_of(job) == hashes_without_ray(make_job(prompts, ""), tmp_path / "calm")
    assert is_whole(job)
    assert progress.num_retries == 0


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_bug_stops_the_job_with_its_traceback_and_committed_shards_stay_committed(tmp_path: Path) -> None:
    columns = numbered(32)
    columns["prompt"][30] = "fault:bug"
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", workers=ONE_ACTOR)

    with pytest.raises(TypeError, match=r"(?s)Actor.render.*a bug of ours"):
        render(job, RecordingCluster(FaultyActor))

    # Three shards are in flight, so the last of eight was taken when at least five were committed.
    assert num_committed(job) >= 5


def test_an_engine_that_cannot_be_loaded_fails_the_job_once(tmp_path: Path) -> None:
    checkpoint = shutil.copytree(DATA / "janus-tiny", tmp_path / "checkpoint")
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", numbered(40)),
        tmp_path / "out",
        recipe=recipe(
            family="janus",
            checkpoint=str(checkpoint),
            prompt_format="janus-pro",
            weights_sha256=weights_digest(open_checkpoint(str(checkpoint))),
        ),
        workers=Workers(max=2),
    )

    cluster = RecordingCluster()

    with pytest.raises(CheckpointError, match=r"^[^\n]*model.safetensors[^\n]*$"):
        render(job, cluster)

    assert len(cluster.handles) == 2
    assert num_committed(job) == 0


def test_actors_that_die_while_they_load_are_replaced_a_few_times(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", numbered(4)), tmp_path / "out", workers=ONE_ACTOR)

    class DeadlyCluster(RecordingCluster):
        def start_actor(self, *arguments: Any) -> Any:
            handle = super().start_actor(*arguments)
            ray.kill(handle)
            return handle

    cluster = DeadlyCluster()

    with pytest.raises(EngineNeverLoadedError, match="an actor failed to load its engine 3 times: The actor is dead"):
        render(job, cluster, backoff_seconds=0)

    assert len(cluster.handles) == 3


def test_a_slot_whose_actors_all_die_is_given_up_while_another_renders(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", numbered(40, SLOW))
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=2, batch_size=2))
    progress = Progress()

    class OneActorLives(RecordingCluster):
        async def wait_until_started(self, handle: Any) -> None:
            if handle is not self.handles[0]:
                while not progress.num_actors:
                    await asyncio.sleep(0.05)
                ray.kill(handle)
            await super().wait_until_started(handle)

    cluster = OneActorLives()

    render(job, cluster, progress, backoff_seconds=0)

    assert is_whole(job)
    assert len(cluster.handles) == 4
    assert progress.num_actors_lost == 3


def test_an_unreachable_checkpoint_is_retried_and_then_named(tmp_path: Path) -> None:
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", numbered(4)),
        tmp_path / "out",
        recipe=recipe(family="janus", checkpoint="s3://bucket/checkpoint", prompt_format="janus-pro"),
        storage={"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"total_max_attempts": 1}}},
        workers=ONE_ACTOR,
    )
    cluster = RecordingCluster()

    with pytest.raises(EngineNeverLoadedError, match="3 times: CheckpointUnreachable: s3://bucket/checkpoint"):
        render(job, cluster, backoff_seconds=0)

    assert len(cluster.handles) == 3
