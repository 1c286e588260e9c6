"""The driver's loop: shards to actors, batches to writers, commits back. It sees references and receipts, no pixels."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import ray
from ray import exceptions as ray_errors

from actors.checkpoint_error import CheckpointUnreachable
from actors.errors import InputError, JobFailure
from workflows import commit, pool
from workflows import shard as shards
from workflows.job import RenderJob
from workflows.metrics import ProgressMetrics, timed
from workflows.patience import patiently
from workflows.plan import Plan, Shard
from workflows.progress import Place, Progress
from workflows.retry import read_again
from workflows.shard_queue import ShardQueue
from workflows.storage import is_transient

MAX_BATCHES_BEING_WRITTEN = 4  # per shard; what is rendered meanwhile waits in Ray's object store
MAX_LOAD_TRIES = 3  # in a row, of one place in the pool
BACKOFF_SECONDS = 2.0
MAX_REASON_CHARACTERS = 300

# Losses of a process or node: the same work elsewhere gives the same bytes. Anything else an actor raises is a bug.
LOSSES_OF_ACTORS = (ray_errors.RayActorError, pool.DeviceLostError)
LOSSES = (
    *LOSSES_OF_ACTORS,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.OutOfMemoryError,
    ray_errors.TaskUnschedulableError,
    ray_errors.ActorUnschedulableError,
)


class EngineNeverLoadedError(JobFailure):
    """No actor lived until it had loaded its engine, or none could fetch the checkpoint."""


def render_shards(job: RenderJob, plan: Plan, progress: Progress) -> None:
    """Render and commit every remaining shard of the plan on the Ray that is running.

    Raises ShardFailedError when a shard's tries are spent, the engine's own error when it cannot be loaded, and
    whatever a bug raises; what is committed by then stands.
    """
    try:
        with ProgressMetrics(progress):
            asyncio.run(_Dispatch(job, plan, progress).run())
    except BaseExceptionGroup as group:
        raise _first_of(group) from None


@dataclass(kw_only=False, slots=True, eq=False)
class _Painter:
    """An actor as the driver sees it: its handle, its card once it is loaded, and why it was lost if it was."""

    actor: ray.actor.ActorHandle
    place: Place
    card: pool.EngineCard | None = None
    loss: str | None = None


class _Dispatch:
    """One run over a plan: a queue of shards and as many painters as Ray has room for."""

    def __init__(self, job: RenderJob, plan: Plan, progress: Progress) -> None:
        self._job, self._progress = job, progress
        self._queue = ShardQueue(plan.remaining_shards(), job.workers.max_tries)
        self._num_painters = pool.pool_size(job, plan.num_shards_remaining)
        self._num_cpus = pool.cpus_of_actor(job, self._num_painters)
        self._job_ref = ray.put(job)
        self._read = ray.remote(_read_shard).options(num_cpus=0)
        self._write = ray.remote(_write_batch).options(num_cpus=0, num_returns=2)
        self._commit = ray.remote(_commit_shard).options(num_cpus=0)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            painters = [group.create_task(self._keep_painting()) for _ in range(self._num_painters)]
            await self._queue.wait_until_done()
            for painter in painters:
                painter.cancel()  # those still waiting for room on the cluster, too

    async def _keep_painting(self) -> None:
        """One place in the pool: start an actor, feed it shards until none is left, replace it if it is lost."""
        num_failed_loads, place = 0, self._progress.add_place()
        while num_failed_loads < MAX_LOAD_TRIES:
            place.is_asked_for()
            painter = _Painter(pool.start_painter(self._job, self._num_cpus), place)
            try:
                await self._load(painter)
                if painter.card is not None:
                    await self._feed(painter)
            finally:
                ray.kill(painter.actor)
                if painter.loss is None:
                    place.is_ended()
            if painter.loss is None:
                return
            num_failed_loads = num_failed_loads + 1 if painter.card is None else 0
        if not self._progress.num_painters:  # else the others go on without this place
            raise EngineNeverLoadedError(f"an actor failed to load its engine {MAX_LOAD_TRIES} times: {painter.loss}")

    async def _load(self, painter: _Painter) -> None:
        """Wait for room on the cluster and for the engine. What may pass becomes the painter's loss."""
        try:
            await painter.actor.__ray_ready__.remote()
            painter.place.is_started()
            painter.card = await painter.actor.load.remote()
        except (*LOSSES, CheckpointUnreachable) as error:
            painter.loss = _reason(error)
            self._progress.painter_is_lost(painter.place, painter.loss)
            await asyncio.sleep(BACKOFF_SECONDS)

    async def _feed(self, painter: _Painter) -> None:
        """Keep several shards in flight on one actor until the queue is empty or the actor is lost."""
        self._progress.painter_is_ready(painter.place, painter.card.device, painter.card.node)
        async with asyncio.TaskGroup() as group:
            for _ in range(pool.SHARDS_IN_FLIGHT):
                group.create_task(self._paint_shards(painter))

    async def _paint_shards(self, painter: _Painter) -> None:
        """Take shards and render them with one actor, one after the other."""
        while painter.loss is None and (shard := await self._queue.take(painter)) is not None:
            if painter.loss is not None:  # it was lost while this waited for a shard
                await self._queue.release(shard)
                return
            try:
                with painter.place.holds_shard():
                    receipt = await self._render_shard(painter, shard)
            except Exception as error:
                if not _may_pass(error):
                    raise
                await self._try_again(painter, shard, error)
            else:
                num_expected = shard.num_rows * self._job.recipe.images_per_row
                self._progress.shard_is_committed(num_expected, receipt.num_images, receipt.num_rejected)
                await self._queue.finish(shard)

    async def _try_again(self, painter: _Painter, shard: Shard, error: Exception) -> None:
        """Give a shard that met a passing fault back to the queue. It is charged a try, unless its node went away."""
        cause, reason = _cause(error), _reason(error)
        self._progress.shard_is_retried(reason)
        if not isinstance(cause, LOSSES_OF_ACTORS):
            await asyncio.sleep(BACKOFF_SECONDS)
        elif painter.loss is None:
            painter.loss = reason
            self._progress.painter_is_lost(painter.place, reason)
        if getattr(cause, "preempted", False) or not pool.is_node_alive(painter.card.node):
            await self._queue.release(shard)
        else:
            await self._queue.put_back(shard, reason)

    async def _render_shard(self, painter: _Painter, shard: Shard) -> commit.Receipt:
        """The path of one shard: read its rows, paint them, write each batch as it comes, commit."""
        rows = self._read.remote(self._job_ref, shard)
        batches = painter.actor.paint.options(num_returns="streaming").remote(rows)
        written, counts = [], []
        try:
            async for batch in batches:
                part, counted = self._write.remote(self._job_ref, shard.id, painter.card.device, batch)
                written.append(part)
                counts.append(asyncio.ensure_future(self._count(painter.place, counted)))
                if len(counts) >= MAX_BATCHES_BEING_WRITTEN:
                    await counts[-MAX_BATCHES_BEING_WRITTEN]
            await asyncio.gather(*counts)
            return await self._commit.remote(self._job_ref, rows, *written)
        except BaseException:
            ray.cancel(batches)  # or the actor renders the rest of the shard for nobody
            await self._uncount(painter.place, counts)
            raise

    async def _count(self, place: Place, counted: ray.ObjectRef) -> int:
        """Add a batch to the progress as soon as it is written; the number of its images."""
        num_images, num_bytes = await counted
        self._progress.images_are_written(place, num_images, num_bytes)
        return num_images

    async def _uncount(self, place: Place, counts: list[asyncio.Future[int]]) -> None:
        """Take the images of a failed attempt off the progress again: the next attempt counts them."""
        for count in counts:
            count.cancel()
        results = await asyncio.gather(*counts, return_exceptions=True)
        self._progress.images_are_written(place, -sum(result for result in results if isinstance(result, int)))


def _read_shard(job: RenderJob, shard: Shard) -> shards.ShardRows:
    return patiently(job.workers.storage_patience, read_again if shard.retry else shards.read_shard, job, shard)


def _write_batch(
    job: RenderJob, shard_id: str, device: str, batch: list
) -> tuple[commit.WrittenBatch, tuple[int, int]]:
    """The Ray task around `write_batch`: the rows stay where they are, only the counts go to the driver."""
    with timed("janus_batch_write_seconds", job.name):
        written = patiently(job.workers.storage_patience, commit.write_batch, job, shard_id, device, batch)
    return written, (len(written.rows), written.num_bytes)


def _commit_shard(job: RenderJob, rows: shards.ShardRows, *written: commit.WrittenBatch) -> commit.Receipt:
    with timed("janus_batch_commit_seconds", job.name):
        return patiently(job.workers.storage_patience, commit.commit_shard, job, rows, *written)


def _may_pass(error: Exception) -> bool:
    """Whether trying again can help: a lost process or node, or storage that is away for a while."""
    return isinstance(_cause(error), LOSSES) or is_transient(_cause(error))


def _cause(error: BaseException) -> BaseException:
    """What a remote function raised, out of Ray's wrapping; a task handed another's error wraps it again."""
    while isinstance(error, ray_errors.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def _reason(error: BaseException) -> str:
    """One line for people."""
    cause = _cause(error)
    lines = str(cause).splitlines() or [""]
    if not isinstance(cause, ray_errors.ActorDiedError):
        return f"{type(cause).__name__}: {lines[0]}"[:MAX_REASON_CHARACTERS]
    # A headline, indented facts (ids, addresses), then what happened; of a SYSTEM_ERROR Ray can only guess the causes.
    what_happened = next((line for line in lines[1:] if not line.startswith("\t")), lines[0])
    return what_happened.partition(" Worker exit type: SYSTEM_ERROR")[0][:MAX_REASON_CHARACTERS]


def _first_of(group: BaseException) -> BaseException:
    """The first real error of a task group: what the others were cancelled for. A bug keeps its remote traceback."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return _cause(group) if isinstance(_cause(group), InputError | JobFailure) else group
