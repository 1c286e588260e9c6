"""The commit protocol on a store that delays, fails and repeats writes, with attempts that die or come late.

In every history that hypothesis generates, a committed shard names only images that exist with the hash it states,
answers each image once, and never changes; and a last attempt completes the shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.batcher import Batcher
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from tests.support.store_model import DONE, FATES, World
from tests.support.toy_job import make_job, plan_job, write_prompts
from workflows.job import Images, RenderJob
from workflows.output import images
from workflows.output.commit import commit_shard
from workflows.output.images import write_batch
from workflows.output.layouts import read_image
from workflows.output.manifest import committed_parts, read_table, rejected_file
from workflows.plan import Shard
from workflows.rows import ShardRows, read_shard
from workflows.storage.store import Storage
from workflows.verify.check import verify_output

NUM_ATTEMPTS = 3
NUMBERS = itertools.count()


class Device(ToyEngine):
    """An engine on one kind of GPU: each kind renders other bytes and rejects another image."""

    def __init__(self, job: RenderJob, number: int) -> None:
        super().__init__(job.recipe)
        self.number = number

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        answers = super().render(requests)
        for index, answer in enumerate(answers):
            if index == self.number:
                answers[index] = Rejection(image_id=answer.image_id, reason=f"not on device {self.number}")
            elif isinstance(answer, RenderedImage):
                answers[index] = dataclasses.replace(answer, pixels=answer.pixels ^ np.uint8(self.number))
        return answers


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    return write_prompts(path, {"prompt": ["a", "b", None], "id": ["a", "b", "none"]})


@pytest.fixture(autouse=True, scope="module")
def _one_request_at_a_time() -> object:
    """An attempt writes its images one after the other, in its own thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "ThreadPoolExecutor", _NoThreads)
        yield


class _NoThreads:
    """An executor that runs each task at once."""

    def __init__(self, _: int) -> None:
        self.map = map

    def __enter__(self) -> _NoThreads:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def attempt(job: RenderJob, rows: ShardRows, number: int) -> None:
    """Render, write and commit a shard on the kind of device with this number."""
    batches = Batcher(Device(job, number), batch_size=8).render(rows.requests)
    written = [write_batch(job, rows.shard.id, f"device {number}", batch) for batch in batches]
    commit_shard(job, rows, *written)


STEPS = st.lists(
    st.tuples(st.integers(0, NUM_ATTEMPTS), st.sampled_from([DONE, DONE, DONE, *FATES])), min_size=5, max_size=60
)


@pytest.mark.parametrize("layout", ["files", "webdataset"])
@pytest.mark.parametrize("can_create", [True, False])
@given(steps=STEPS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_committed_shard_is_complete_from_the_start(
    prompts: str, layout: str, can_create: bool, steps: list[tuple[int, str]]
) -> None:
    name = f"world-{next(NUMBERS)}"
    world, storage = World(name), {"world": name, "conditional_create": can_create}
    job = make_job(prompts, "modelstore://bucket/out", storage=storage, images=Images(layout=layout))
    (shard,) = plan_job(job).remaining_shards()
    rows = read_shard(make_job(prompts, ""), shard)
    for number in range(NUM_ATTEMPTS):
        world.begin(functools.partial(attempt, job, rows, number))

    firsts: set[bytes] = set()
    for place, fate in steps:
        if place == NUM_ATTEMPTS and world.postponed:
            _do_later(world)
        elif waiting := world.waiting:
            waiting[place % len(waiting)].step(fate)
        firsts |= check_committed(job, rows, shard)
    while waiting := world.waiting:
        waiting[0].step(DONE)
    firsts |= check_committed(job, rows, shard)
    while world.postponed:
        _do_later(world)
        firsts |= check_committed(job, rows, shard)

    attempt(job, rows, NUM_ATTEMPTS)  # a later run, if it is needed
    firsts |= check_committed(job, rows, shard)
    assert len(firsts) == 1 or not can_create  # the first commit stays
    assert verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe).is_whole


def _do_later(world: World) -> None:
    with contextlib.suppress(FileExistsError):
        world.postponed.pop(0)()


def check_committed(job: RenderJob, rows: ShardRows, shard: Shard) -> set[bytes]:
    """Check a committed shard against its files. Returns the hash of its manifest part, None if there is none."""
    storage = Storage(job.output, job.storage)
    if not committed_parts(storage):
        return set()
    part = f"manifest/{shard.id}.parquet"
    rendered = read_table(storage, part).to_pylist()
    for row in rendered:
        assert hashlib.sha256(read_image(storage, row["image"])).hexdigest() == row["image_sha256"]
    rejected_name = rejected_file(storage, shard.id)
    rejected = read_table(storage, rejected_name).to_pylist()
    images = [row["image_id"] for row in [*rendered, *rejected] if row["image_id"] is not None]
    assert sorted(images) == sorted(request.image_id for request in rows.requests)
    assert [row["prompt_id"] for row in rejected if row["image_id"] is None] == ["none"]
    (device,) = {row["device"] for row in rendered}
    reasons = {row["reason"] for row in rejected} - {"prompt is null"}
    assert reasons <= {f"not on {device}"}  # of this attempt and of no other
    return {hashlib.sha256(storage.read(part)).digest()}
