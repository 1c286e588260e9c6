"""The commit: images, rejected rows, manifest last; the first attempt wins; every request is answered once."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.batcher import Batcher
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import (
    FOUR_ROWS,
    bytes_of,
    faults_of,
    make_job,
    manifest_of,
    plan_job,
    recipe,
    render,
    render_shard,
    rows_of,
    write_prompts,
)
from workflows.job import Images, RenderJob
from workflows.output.commit import commit_shard
from workflows.output.images import write_batch
from workflows.output.layouts import LAYOUTS
from workflows.storage.lease import OutputRemovedError
from workflows.storage.store import Storage
from workflows.verify.check import verify_output


class OtherKindOfGpu(ToyEngine):
    """Renders the same images except for their last bits, as another kind of GPU does."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        return [
            dataclasses.replace(answer, pixels=answer.pixels ^ np.uint8(1))
            if isinstance(answer, RenderedImage)
            else answer
            for answer in super().render(requests)
        ]


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return make_job(write_prompts(tmp_path / "prompts.parquet", FOUR_ROWS), tmp_path / "out")


def test_a_shard_whose_image_files_are_gone_is_not_committed(job: RenderJob) -> None:
    (rows,) = rows_of(job)
    written = write_batch(job, rows.shard.id, "cpu", Batcher(ToyEngine(job.recipe), 8).render(rows.requests).__next__())
    Path(job.output, written.rows[0]["image"]).unlink()

    with pytest.raises(OutputRemovedError) as raised:
        commit_shard(job, rows, written)

    assert not Path(job.output, "manifest").exists()
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # Ray sends it to the driver


# ---- order -----------------------------------------------------------------------------------------------------------


def record_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files, in the order in which they were written."""
    names: list[str] = []
    for method in ("write", "create"):
        real = getattr(Storage, method)

        def put(self: Storage, name: str, data: bytes, real=real) -> bool | None:
            result = real(self, name, data)
            names.append(name)
            return result

        monkeypatch.setattr(Storage, method, put)
    return names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_come_first_and_the_manifest_part_last(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    names = record_writes(monkeypatch)

    render(dataclasses.replace(job, images=Images(layout=layout)))

    folders = [name.split("/")[0] for name in names]
    num_images = 2 if layout == "files" else 1
    assert folders == ["job.json", *["images"] * num_images, "rejected", "manifest"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_job_stopped_at_any_write_resumes_to_the_same_output(
    job: RenderJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    job = dataclasses.replace(job, images=Images(layout=layout), shard_rows=2)
    names = record_writes(monkeypatch)
    render(dataclasses.replace(job, output=str(tmp_path / "whole")))
    whole, num_writes = contents(tmp_path / "whole"), len(names)

    for num_survived in range(1, num_writes):
        output = tmp_path / f"stopped-{num_survived}"
        stopped = dataclasses.replace(job, output=str(output))
        with monkeypatch.context() as patch:
            stop_after(patch, num_survived)
            with pytest.raises(KeyboardInterrupt):
                render(stopped)
        render(stopped)

        assert contents(output) == whole
        assert faults_of(stopped) == []


def stop_after(patch: pytest.MonkeyPatch, num_writes: int) -> None:
    """End the run before it writes the next file."""
    left = [num_writes]
    for method in ("write", "create"):
        real = getattr(Storage, method)

        def put(self: Storage, name: str, data: bytes, real=real) -> bool | None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(self, name, data)

        patch.setattr(Storage, method, put)


def contents(output: Path) -> dict[str, object]:
    """Every file of an output, its moment of making aside."""
    files: dict[str, object] = {}
    for name, data in bytes_of(output).items():
        if name.startswith("manifest/"):
            files[name] = pq.read_table(output / name).drop(["created_at"])
        elif name != "job.json":
            files[name] = data
    return files


# ---- the first attempt wins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("engine", [ToyEngine, OtherKindOfGpu])
def test_a_late_attempt_changes_nothing(job: RenderJob, layout: str, engine: type[ToyEngine]) -> None:
    job = dataclasses.replace(job, images=Images(layout=layout))
    (shard,) = plan_job(job).remaining_shards()
    render(job)
    before = bytes_of(job.output)

    receipt = render_shard(job, shard, engine(job.recipe))

    after = bytes_of(job.output)
    assert not receipt.is_first
    assert {name: after[name] for name in before} == before
    assert faults_of(job) == []
    if engine is ToyEngine or layout != "files":
        assert after.keys() == before.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_of_two_attempts_to_commit_keeps_its_images(job: RenderJob, layout: str) -> None:
    """A late actor wrote its images before, and commits after, the attempt that replaced it."""
    job = dataclasses.replace(job, images=Images(layout=layout))
    (shard,), (rows,) = plan_job(job).remaining_shards(), rows_of(job)
    batches = Batcher(OtherKindOfGpu(job.recipe)).render(rows.requests)
    written = [write_batch(job, shard.id, "other kind of GPU", batch) for batch in batches]

    receipt = render_shard(job, shard)
    late = commit_shard(job, rows, *written)

    assert (receipt.is_first, late.is_first) == (True, False)
    assert {row["device"] for row in manifest_of(job)} == {"cpu"}
    assert faults_of(job) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_attempt_that_checked_before_the_other_committed_changes_nothing_either(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    job = dataclasses.replace(job, images=Images(layout=layout))
    (shard,) = plan_job(job).remaining_shards()
    render(job)
    before = bytes_of(job.output)

    monkeypatch.setattr(Storage, "exists", lambda self, name: False)
    receipt = render_shard(job, shard, OtherKindOfGpu(job.recipe))
    monkeypatch.undo()

    after = bytes_of(job.output)
    assert not receipt.is_first
    assert {name: after[name] for name in before} == before
    assert faults_of(job) == []


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_the_pack_of_an_attempt_that_did_not_commit_stays_and_is_not_named(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    job = dataclasses.replace(job, images=Images(layout=layout, keep_latents=True))
    (shard,) = plan_job(job).remaining_shards()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)  # the pack
        with pytest.raises(KeyboardInterrupt):
            render_shard(job, shard, OtherKindOfGpu(job.recipe))
    (lost,) = bytes_of(job.output)

    render_shard(job, shard)

    findings = verify_output(Storage(job.output), plan_job(job), job.recipe)
    assert findings.faults == []
    assert findings.orphans == [lost]


def test_one_of_many_attempts_wins_on_s3(s3_server: S3Server, s3_folder: str, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    job = make_job(path, f"{s3_folder}/out", storage=s3_server.storage_options)
    (shard,) = plan_job(job).remaining_shards()

    receipts = [render_shard(job, shard, engine(job.recipe)) for engine in (OtherKindOfGpu, ToyEngine)]

    assert [receipt.is_first for receipt in receipts] == [True, False]
    findings = verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe)
    assert findings.faults == []
    assert len(findings.orphans) == 2


# ---- every request is answered once ----------------------------------------------------------------------------------


def test_a_shard_with_too_few_answers_is_not_committed(job: RenderJob) -> None:
    (rows,) = rows_of(job)
    first, *_ = Batcher(ToyEngine(job.recipe), batch_size=2).render(rows.requests)

    with pytest.raises(AssertionError, match=r"has 2 answers for 3 requests"):
        commit_shard(job, rows, write_batch(job, rows.shard.id, "cpu", first))
    assert Storage(job.output).names("manifest") == []


def test_a_shard_with_a_duplicate_answer_is_not_committed(job: RenderJob) -> None:
    (rows,) = rows_of(job)
    batches = [write_batch(job, rows.shard.id, "cpu", b) for b in Batcher(ToyEngine(job.recipe)).render(rows.requests)]

    with pytest.raises(AssertionError, match=r"answers for 3 requests"):
        commit_shard(job, rows, *batches, *batches)


def test_a_written_batch_counts_its_bytes_and_rows(job: RenderJob) -> None:
    (rows,) = rows_of(job)
    (batch,) = Batcher(ToyEngine(job.recipe)).render(rows.requests)

    written = write_batch(job, rows.shard.id, "cpu", batch)

    files = {name: data for name, data in bytes_of(job.output).items() if name.startswith("images/")}
    assert written.num_bytes == sum(map(len, files.values()))
    assert {row["image"] for row in written.rows} == set(files)
    assert written.packed == {}
    assert [(request.prompt_id, reason) for request, reason in written.rejected] == [
        ("nan", "the model's numbers became NaN")
    ]


def test_seeds_of_a_manifest_give_the_same_images_again(tmp_path: Path) -> None:
    """The columns `prompt` and `seed` of a manifest, the latter as `image_seed`, are the prompts of a job."""
    columns = {"prompt": ["a", "b"], "seed": pa.array([None, 2**64 - 1], pa.uint64())}
    first = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns),
        tmp_path / "out",
        recipe=recipe(images_per_prompt=2, seed=9),
    )
    render(first)
    rows = manifest_of(first)

    again = {
        "prompt": [row["prompt"] for row in rows],
        "image_seed": pa.array([row["seed"] for row in rows], pa.uint64()),
    }
    second = make_job(write_prompts(tmp_path / "again.parquet", again), tmp_path / "second")
    render(second)

    assert [row["row_seed"] for row in rows] == [9, 9, 2**64 - 1, 2**64 - 1]
    assert [row["row_seed"] for row in manifest_of(second)] == [None] * 4
    assert [row["seed"] for row in manifest_of(second)] == [row["seed"] for row in rows]
    assert [row["image_sha256"] for row in manifest_of(second)] == [row["image_sha256"] for row in rows]
