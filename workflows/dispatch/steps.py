"""The path of one shard through one actor: read its rows, paint them, write each batch as it comes, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar, cast

import ray
from ray import exceptions as ray_errors

from actors.batcher import Answer
from actors.request import RenderedImage
from workflows import rows as shards
from workflows.dispatch import pool
from workflows.dispatch.bisection import RowRange
from workflows.dispatch.failures import PaintingFailedError, cause_of, is_failure_of_actor
from workflows.dispatch.metrics import timed
from workflows.dispatch.progress import Place, Progress
from workflows.dispatch.watchdog import Watchdog
from workflows.job import RenderJob
from workflows.output import commit
from workflows.plan import Shard
from workflows.retry_rejected import read_again
from workflows.storage.retry import retry_storage

PLAIN_PROMPT = "a red circle"  # nothing in it can be at fault
MAX_BATCHES_BEING_WRITTEN = 4  # per shard; what is rendered meanwhile waits in Ray's object store

# As text: Ray's class takes no parameters when the program runs.
RowsRef: TypeAlias = "ray.ObjectRef[shards.ShardRows]"
BatchRef: TypeAlias = "ray.ObjectRef[list[Answer]]"
First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(kw_only=False, slots=True, eq=False)
class Worker:
    """An actor as the driver sees it: its handle, its card once it is loaded, the images it made, why it was lost."""

    actor: ray.actor.ActorHandle[pool.PainterActor]
    place: Place
    loaded: pool.EngineCard | None = None
    num_images: int = 0
    loss: str | None = None
    ran_out_of_memory: bool = False
    is_leaving: bool = False

    @property
    def card(self) -> pool.EngineCard:
        """The card of an actor that is loaded; only such a one gets shards."""
        assert self.loaded is not None
        return self.loaded

    @property
    def name(self) -> str:
        return f"process {self.card.pid} on node {self.card.node[:8]}" if self.loaded else "an actor that is loading"


@dataclass(frozen=True, kw_only=True, slots=True)
class Painted:
    """What was painted of a shard: references to its written batches, and how many images they hold."""

    written: list[ray.ObjectRef[commit.WrittenBatch]]
    num_images: int


class ShardPath:
    """The steps of the path as calls of Ray. References and counts come back, no rows and no pixels."""

    def __init__(self, job: RenderJob, progress: Progress, watchdog: Watchdog[Worker]) -> None:
        self._progress, self._watchdog = progress, watchdog
        self.num_made = 0  # images, whether or not their attempts came to an end
        self._job_ref = ray.put(job)
        self._read = ray.remote(_read_shard).options(num_cpus=0, num_returns=2)
        self._write = ray.remote(_write_batch).options(num_cpus=0, num_returns=2)
        self._commit = ray.remote(_commit_shard).options(num_cpus=0)
        self._plain = ray.remote(_plain_prompt).options(num_cpus=0, num_returns=2)
        self._count_images = ray.remote(_count_images).options(num_cpus=0)

    async def read(self, shard: Shard) -> RowsRef:
        """A reference to the shard's rows, once they are read: a store that is away is no silence of an actor."""
        rows, is_read = _both(self._read.remote(self._job_ref, shard))
        await is_read
        return rows

    async def paint(self, worker: Worker, shard: Shard, rows: RowsRef, row_range: RowRange | None = None) -> Painted:
        """Paint the shard's rows, or a range of them, and write them. Raises PaintingFailedError if the actor fails."""
        selection = () if row_range is None else (row_range.start, row_range.stop)
        batches: ray.ObjectRefGenerator = worker.actor.paint.options(num_returns="streaming").remote(rows, *selection)
        written: list[ray.ObjectRef[commit.WrittenBatch]] = []
        counts: list[asyncio.Future[int]] = []
        try:
            while (batch := await self._next_batch(worker, batches)) is not None:
                part, counted = _both(self._write.remote(self._job_ref, shard.id, worker.card.device, batch))
                written.append(part)
                counts.append(asyncio.ensure_future(self._count(worker, counted)))
                if len(counts) >= MAX_BATCHES_BEING_WRITTEN:
                    await counts[-MAX_BATCHES_BEING_WRITTEN]
            return Painted(written=written, num_images=sum(await asyncio.gather(*counts)))
        except BaseException as error:
            ray.cancel(batches)  # or the actor renders the rest of the shard for nobody
            await self._uncount(worker, counts)
            if is_failure_of_actor(error):  # what an actor raises is an item of its stream: the writer met it
                raise PaintingFailedError(cause_of(error)) from error
            raise

    async def paint_plain(self, worker: Worker, rows: RowsRef) -> None:
        """Paint a plain prompt for nobody in place of the only row there is to render; nothing where there are more.

        Raises PaintingFailedError if the actor fails over this, too.
        """
        plain, is_made = _both(self._plain.remote(rows, PLAIN_PROMPT))
        if not await is_made:
            return
        batches: ray.ObjectRefGenerator = worker.actor.paint.options(num_returns="streaming").remote(plain)
        try:
            while (batch := await self._next_batch(worker, batches)) is not None:
                worker.num_images += await self._count_images.remote(batch)
        except BaseException as error:
            if is_failure_of_actor(error):
                raise PaintingFailedError(cause_of(error)) from error
            raise

    async def commit(
        self, rows: RowsRef, painted: Iterable[Painted], condemned: Mapping[int, str] | None = None
    ) -> commit.Receipt:
        """Commit what was painted; `condemned` rows of the shard (by number in it) are rejected with their reasons."""
        written = [part for one in painted for part in one.written]
        return await self._commit.remote(self._job_ref, rows, dict(condemned or {}), *written)

    def uncount(self, worker: Worker, num_images: int) -> None:
        """Take images off the progress again that another attempt counts."""
        self._progress.images_are_written(worker.place, -num_images)

    async def _next_batch(self, worker: Worker, batches: ray.ObjectRefGenerator) -> BatchRef | None:
        with self._watchdog.listening(worker):
            try:
                batch: BatchRef = await anext(batches)
                if batch == batches.completed():  # a stream that was cut off ends with this, its error
                    await batch
                return batch
            except StopAsyncIteration:
                return None
            except ray_errors.OutOfMemoryError as error:  # of the actor's process; a writer's would be another matter
                raise PaintingFailedError(error) from error

    async def _count(self, worker: Worker, counted: ray.ObjectRef[tuple[int, int]]) -> int:
        """Add a batch to the progress as soon as it is written; the number of its images."""
        num_images, num_bytes = await counted
        worker.num_images += num_images
        self.num_made += num_images
        self._progress.images_are_written(worker.place, num_images, num_bytes)
        return num_images

    async def _uncount(self, worker: Worker, counts: list[asyncio.Future[int]]) -> None:
        """Take the images of a failed attempt off the progress again: the next attempt counts them."""
        for count in counts:
            count.cancel()
        results = await asyncio.gather(*counts, return_exceptions=True)
        self.uncount(worker, sum(result for result in results if isinstance(result, int)))


def _both(refs: ray.ObjectRef[tuple[First, Second]]) -> tuple[ray.ObjectRef[First], ray.ObjectRef[Second]]:
    """What a call with `num_returns=2` gives: Ray's types know nothing of that option."""
    return cast("tuple[ray.ObjectRef[First], ray.ObjectRef[Second]]", refs)


def _read_shard(job: RenderJob, shard: Shard) -> tuple[shards.ShardRows, None]:
    read = read_again if shard.retry else shards.read_shard
    return retry_storage(job.workers.storage_retry_seconds, read, job, shard), None


def _write_batch(
    job: RenderJob, shard_id: str, device: str, batch: list[Answer]
) -> tuple[commit.WrittenBatch, tuple[int, int]]:
    """The Ray task around `write_batch`: the rows stay where they are, only the counts go to the driver."""
    with timed("janus_batch_write_seconds", job.name):
        written = retry_storage(job.workers.storage_retry_seconds, commit.write_batch, job, shard_id, device, batch)
    return written, (len(written.rows), written.num_bytes)


def _plain_prompt(rows: shards.ShardRows, prompt: str) -> tuple[shards.ShardRows | None, bool]:
    """If one row alone is to be rendered: the same with one image, of another prompt."""
    if len({request.prompt_id for request in rows.requests}) != 1:
        return None, False
    plain = replace(rows.requests[0], prompt=prompt, negative_prompt=None)
    return replace(rows, requests=[plain]), True


def _count_images(batch: list[Answer]) -> int:
    return sum(isinstance(answer, RenderedImage) for _, answer in batch)


def _commit_shard(
    job: RenderJob, rows: shards.ShardRows, condemned: dict[int, str], *written: commit.WrittenBatch
) -> commit.Receipt:
    reasons = [(request, condemned.get(rows.row_of[request.prompt_id])) for request in rows.requests]
    rejected = [(request, reason) for request, reason in reasons if reason is not None]
    condemned_batch = commit.WrittenBatch(rows=[], packed={}, rejected=rejected, num_bytes=0)
    with timed("janus_batch_commit_seconds", job.name):
        return retry_storage(
            job.workers.storage_retry_seconds, commit.commit_shard, job, rows, condemned_batch, *written
        )
