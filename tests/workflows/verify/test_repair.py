"""Repairs: only the images at fault are re-rendered, and no moment at which a repair is killed loses or doubles one."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from actors.request import ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from tests.support.toy_job import (
    bytes_of,
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
from workflows.output.claim import SUCCESS_FILE, mark_success, read_claim
from workflows.output.commit import Receipt
from workflows.output.layouts import LAYOUTS, read_image, read_pack
from workflows.output.manifest import committed_parts, manifest_name, remove_superseded
from workflows.output.parts import read_part
from workflows.output.repairs import REPAIR_REASON, settle_repairs
from workflows.plan import split_part_id
from workflows.prompts import find_prompt_files
from workflows.report.write import REPORT_FILE
from workflows.retry_rejected import plan_retries
from workflows.scores.parts import Scorer, scored_parts, write_scores
from workflows.storage.store import Storage
from workflows.verify.check import verify_output
from workflows.verify.repair import Repairs, remove_orphans, repair_output

PROMPTS = {"prompt": ["a", "toy:nan b", None, "toy:nan toy:nan d", "e", "f"], "id": list("abcdef"), "note": range(6)}


class Fixed(ToyEngine):
    """The toy engine after a fix: it renders row b, which it rejected before."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        return super().render([dataclasses.replace(r, prompt=r.prompt.removeprefix("toy:nan ")) for r in requests])


@pytest.fixture(params=LAYOUTS)
def job(tmp_path: Path, request: pytest.FixtureRequest) -> RenderJob:
    """A finished output of two shards. The first has a retry, which rendered the images of row b."""
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", PROMPTS),
        tmp_path / "out",
        recipe=recipe(images_per_prompt=2),
        images=Images(layout=request.param),
    )
    render(job)
    storage = Storage(job.output)
    retries, _ = plan_retries(storage, find_prompt_files(job.prompts, {}))
    for shard in retries.remaining_shards():
        render_shard(job, shard, Fixed(job.recipe))
    remove_superseded(storage)
    finish(job)
    return job


def finish(job: RenderJob) -> None:
    mark_success(job, 0, 0)
    Storage(job.output).write(REPORT_FILE, b"Finished")


def repair(job: RenderJob, storage: Storage | None = None) -> Repairs:
    storage = storage or Storage(job.output)
    plan = plan_job(job)
    findings = verify_output(storage, plan, job.recipe)
    return repair_output(storage, read_claim(storage), plan, committed_parts(storage), findings.at_fault)


def damage_images(job: RenderJob, *image_ids: str) -> None:
    """Change a byte of these images."""
    storage = Storage(job.output)
    for row in manifest_of(job):
        if row["image_id"] in image_ids:
            file, data = row["image"].partition("#")[0], read_image(storage, row["image"])
            whole = storage.read(file)
            assert whole.count(data[-40:]) == 1 or file.endswith(".parquet")
            storage.write(file, whole.replace(data[-20:-10], b"0123456789", 1) if file != row["image"] else data[:-1])


def hashes_of(job: RenderJob) -> dict[str, str]:
    return {row["image_id"]: row["image_sha256"] for row in manifest_of(job)}


def carried_of(job: RenderJob) -> dict[str, int]:
    return {row["image_id"]: row["note"] for row in manifest_of(job)}


def assert_whole(job: RenderJob, hashes: dict[str, str]) -> None:
    findings = verify_output(Storage(job.output), plan_job(job), job.recipe)
    assert findings.faults == []
    assert findings.is_whole
    assert hashes_of(job) == hashes
    assert Counter(row["image_id"] for row in manifest_of(job)).most_common(1)[0][1] == 1


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_parts_that_are_taken_back_lose_their_scores(job: RenderJob) -> None:
    """A part that is rendered again on another kind of device has other bytes, whose scores would never be written."""
    storage = Storage(job.output)
    damaged, *others = parts = committed_parts(storage)
    for part in parts:
        rows = read_part(storage, part, ["image_id", "image_sha256"])
        write_scores(
            storage, Scorer(name="mine", version="1"), part, rows.append_column("score", pa.array([1.0] * len(rows)))
        )
    storage.write(manifest_name(damaged), b"")

    repair(job)

    lost = {part for part in parts if split_part_id(part)[0] == split_part_id(damaged)[0]}
    assert set(scored_parts(storage, "mine")) == set(others) - lost


@pytest.mark.parametrize("job", ["files", "webdataset"], indirect=True)
@pytest.mark.parametrize("image_ids", [["e_0"], ["a_1"], ["b_0"], ["a_0", "b_1"], ["a_0", "a_1", "b_0", "b_1", "f_1"]])
def test_only_the_images_at_fault_are_re_rendered(job: RenderJob, image_ids: list[str]) -> None:
    hashes, carried, num_rejected = hashes_of(job), carried_of(job), len(rejected_of(job))
    damage_images(job, *image_ids)

    repairs = repair(job)

    num_shards = len({image_id[0] in "ef" for image_id in image_ids})
    assert (repairs.num_images, len(repairs.repaired)) == (len(image_ids), num_shards)
    assert set(hashes_of(job)) == set(hashes) - set(image_ids)
    plan = plan_job(job)
    assert (plan.num_images_remaining(2), plan.num_shards_remaining) == (len(image_ids), num_shards)
    pending = [row["image_id"] for row in rejected_of(job) if row["reason"] == REPAIR_REASON]
    assert sorted(pending) == sorted(image_ids)

    receipts = render_pending(job)

    assert sum(receipt.num_images for receipt in receipts) == len(image_ids)
    assert_whole(job, hashes)
    assert carried_of(job) == carried
    assert len(rejected_of(job)) == num_rejected
    assert plan_job(job).num_shards_remaining == 0


def render_pending(job: RenderJob) -> list[Receipt]:
    """The next run, with an engine that can render row b."""
    plan, storage = plan_job(job), Storage(job.output)
    settle_repairs(storage, plan.repairs)
    receipts = [render_shard(job, shard, Fixed(job.recipe)) for shard in plan.remaining_shards()]
    remove_superseded(storage)
    return receipts


@pytest.mark.parametrize("job", ["webdataset"], indirect=True)
def test_readers_of_packs_see_each_image_once(job: RenderJob) -> None:
    hashes = hashes_of(job)
    damage_images(job, "a_0", "e_1")

    repair(job)
    render_pending(job)

    storage = Storage(job.output)
    members = Counter(name for pack in storage.walk("images") for name in read_pack(storage, pack))
    assert sorted(name for name in members if name.endswith(".png")) == sorted(f"{name}.png" for name in hashes)
    assert set(members.values()) == {1}


def test_a_missing_pack_or_image_file_is_re_rendered(job: RenderJob) -> None:
    hashes = hashes_of(job)
    for name in list(Storage(job.output).walk("images"))[::2]:
        Storage(job.output).remove(name)

    repair(job)
    render_pending(job)

    assert_whole(job, hashes)


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_the_mark_and_the_report_go_only_if_something_is_repaired(job: RenderJob) -> None:
    repair(job)
    assert Storage(job.output).exists(SUCCESS_FILE)

    damage_images(job, "a_0")
    repair(job)
    assert not Storage(job.output).exists(SUCCESS_FILE)
    assert not Storage(job.output).exists(REPORT_FILE)


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_a_second_repair_before_the_next_run_adds_to_the_first(job: RenderJob) -> None:
    hashes = hashes_of(job)
    damage_images(job, "a_0")
    repair(job)
    damage_images(job, "a_1", "b_0")

    assert repair(job).num_images == 3
    render_pending(job)

    assert_whole(job, hashes)


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_a_missing_manifest_row_is_re_rendered(job: RenderJob) -> None:
    hashes = hashes_of(job)
    part = min(Path(job.output, "manifest").iterdir())
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(part).slice(1), part)

    assert repair(job).num_images == 1
    render_pending(job)

    assert_whole(job, hashes)


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_an_image_that_cannot_be_re_rendered_is_rejected_with_its_reason(job: RenderJob) -> None:
    damage_images(job, "a_0", "b_0")
    repair(job)

    render(job)  # with an engine that rejects row b

    (row,) = (row for row in rejected_of(job) if row["image_id"] == "b_0")
    assert row["reason"] == "the model's numbers became NaN"
    assert plan_job(job).num_shards_remaining == 0
    assert verify_output(Storage(job.output), plan_job(job), job.recipe).is_whole


# ---- kills -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process of the repair is gone."""


class Dying(Storage):
    """A storage whose process is killed after some of its changes."""

    def __init__(self, url: str, num_changes: int) -> None:
        super().__init__(url)
        self._num_left = num_changes

    def write(self, name: str, data: bytes) -> None:
        self._change(lambda: super(Dying, self).write(name, data))

    def create(self, name: str, data: bytes) -> bool:
        self._change(lambda: None)
        return super().create(name, data)

    def remove(self, name: str) -> None:
        self._change(lambda: super(Dying, self).remove(name))

    def _change(self, do: Callable[[], object]) -> None:
        if not self._num_left:
            raise Killed
        self._num_left -= 1
        do()


DAMAGE = [["a_0"], ["b_0"], ["a_0", "b_1", "e_0"], ["a_0", "a_1", "b_0", "b_1"]]


@pytest.mark.parametrize("job", ["files", "webdataset"], indirect=True)
@pytest.mark.parametrize("image_ids", DAMAGE)
def test_a_repair_killed_at_any_moment_loses_and_doubles_nothing(
    job: RenderJob, tmp_path: Path, image_ids: list[str]
) -> None:
    hashes = hashes_of(job)
    damage_images(job, *image_ids)
    shutil.copytree(job.output, tmp_path / "damaged")
    for num_changes in itertools.count():
        shutil.rmtree(job.output)
        shutil.copytree(tmp_path / "damaged", job.output)
        try:
            repair(job, Dying(job.output, num_changes))
            break
        except Killed:
            check_killed(job, hashes, set(image_ids))
            recover(job, hashes)
    assert num_changes >= 5


def check_killed(job: RenderJob, hashes: dict[str, str], at_fault: set[str]) -> None:
    """What a reader sees with pyarrow alone: each intact image once, and those at fault at most once."""
    table = pyarrow.dataset.dataset(f"{job.output}/manifest", format="parquet").to_table()
    images = Counter(table["image_id"].to_pylist())
    assert set(images.values()) == {1}
    assert set(hashes) - at_fault <= set(images)
    if Storage(job.output).exists(SUCCESS_FILE):
        assert set(images) == set(hashes)


def recover(job: RenderJob, hashes: dict[str, str]) -> None:
    """The next run alone never doubles or loses an image; a second repair completes the first."""
    before = bytes_of(job.output)
    render_pending(job)
    images = Counter(row["image_id"] for row in manifest_of(job))
    assert images == Counter(list(hashes))
    repair(job)
    render_pending(job)
    assert_whole(job, hashes)

    shutil.rmtree(job.output)
    for name, data in before.items():
        Storage(job.output).write(name, data)
    repair(job)
    render_pending(job)
    assert_whole(job, hashes)
    storage = Storage(job.output)
    findings = verify_output(storage, plan_job(job), job.recipe)
    assert remove_orphans(storage, findings.orphans, committed_parts(storage)).kept == []
    assert_whole(job, hashes)
