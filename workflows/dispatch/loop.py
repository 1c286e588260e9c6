"""The driver's loop: places in the pool, shards to actors, what a failure costs whom. It sees receipts, no pixels."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from actors.errors import CheckpointUnreachable, JobFailure
from workflows.dispatch import failures as losses
from workflows.dispatch import pool
from workflows.dispatch.bisection import NotTheRowsError
from workflows.dispatch.drain import Drain, DrainedError
from workflows.dispatch.failures import PaintingFailedError, reason_of
from workflows.dispatch.isolation import Isolation
from workflows.dispatch.metrics import ProgressMetrics
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import Attempt, Fate, ShardFailedError, ShardQueue
from workflows.dispatch.steps import ShardPath, Worker
from workflows.dispatch.watch import Watch
from workflows.dispatch.watchdog import Watchdog
from workflows.job import RenderJob
from workflows.output import commit
from workflows.plan import Plan, RetryPlan, Shard

MAX_LOAD_TRIES = 3  # in a row, of one place in the pool
MAX_BARREN_ACTORS = 4  # in a row on one node, lost before they made an image: new ones are started on other nodes
MAX_NODES_LOST = 5  # under one shard, before it is charged for the next
BACKOFF_SECONDS = 2.0
NUM_SHARDS_NAMED = 10


class EngineNeverLoadedError(JobFailure):
    """No actor lived until it had loaded its engine, or none could fetch the checkpoint."""


def render_shards(job: RenderJob, plan: Plan | RetryPlan, progress: Progress) -> None:
    """Render and commit every remaining shard of the plan on the Ray that is running.

    Raises ShardFailedError when a shard's tries are spent, DrainedError when a SIGTERM asked for the end, the engine's
    own error when it cannot be loaded, and whatever a bug raises; what is committed by then stands.
    """
    try:
        with ProgressMetrics(progress):
            asyncio.run(_Dispatch(job, plan, progress).run())
    except BaseExceptionGroup as group:
        raise losses.first_of(group) from None


class _Dispatch:
    """One run over a plan: a queue of shards and as many workers as Ray has room for."""

    def __init__(self, job: RenderJob, plan: Plan | RetryPlan, progress: Progress) -> None:
        self._job, self._progress = job, progress
        self._queue: ShardQueue[Worker] = ShardQueue(
            plan.remaining_shards(),
            job.workers.max_tries,
            may_take_alone=lambda shard, worker: self._isolation.may_take(shard, worker, self._workers),
        )
        self._num_shards, self._num_finished = plan.num_shards_remaining, 0
        self._num_places = pool.pool_size(job, plan.num_shards_remaining)
        self._num_cpus = pool.cpus_of_actor(job, self._num_places)
        stall_minutes = job.workers.stall_minutes
        self._watchdog: Watchdog[Worker] = Watchdog(None if stall_minutes is None else 60 * stall_minutes)
        self._drain = Drain(job.workers.drain_seconds)
        self._path = ShardPath(job, progress, self._watchdog)
        self._isolation = Isolation(self._path)
        self._workers: set[Worker] = set()  # those that are loaded
        self._watch = Watch(
            job,
            progress,
            self._queue,
            self._watchdog,
            self._workers,
            num_cpus=self._num_cpus,
            lose=self._lose,
        )
        self._running: dict[Attempt[Worker], asyncio.Task[None]] = {}
        self._num_nodes_lost: Counter[str] = Counter()  # shard id -> nodes that went away while they rendered it
        self._num_barren: Counter[str] = Counter()  # node -> actors in a row that were lost before they made an image

    async def run(self) -> None:
        with self._drain.on_sigterm():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep_painting()) for _ in range(self._num_places)]
                tasks.append(group.create_task(self._watch.keep()))
                await self._drain.wait_for(self._queue.wait_until_done(), self._take_no_more)
                for task in tasks:
                    task.cancel()  # those still waiting for room on the cluster, too
        self._check_all_done()

    async def _take_no_more(self) -> None:
        seconds = self._drain.grace_seconds
        self._progress.note(f"told to end (SIGTERM): what is in flight gets up to {seconds:g} s to be finished")
        await self._queue.close()

    def _check_all_done(self) -> None:
        skipped = self._queue.skipped
        if skipped:
            first = itertools.islice(skipped.items(), NUM_SHARDS_NAMED)
            lines = [f"shard {shard_id} failed {reason}" for shard_id, reason in first]
            if len(skipped) > len(lines):
                lines.append(f"and {len(skipped) - len(lines)} more")
            raise ShardFailedError("\n".join([f"shards skipped (on_shard_failure: skip): {len(skipped):,}", *lines]))
        if self._drain.is_asked and self._num_finished < self._num_shards:
            raise DrainedError(
                f"told to end (SIGTERM): {self._num_finished} of {self._num_shards} shards were committed in this run"
            )

    # ---- the pool ----------------------------------------------------------------------------------------------------

    async def _keep_painting(self) -> None:
        """One place in the pool: start an actor, feed it shards until none is left, replace it if it is lost."""
        num_failed_loads, batch_size, place = 0, self._job.workers.batch_size, self._progress.add_place()
        while num_failed_loads < MAX_LOAD_TRIES:
            place.is_asked_for()
            worker = Worker(pool.start_painter(self._job, self._num_cpus, batch_size, self._barren_nodes()), place)
            try:
                await self._load(worker)
                if worker.loaded is not None:
                    await self._feed(worker)
            finally:
                pool.end_painter(worker.actor)
                if worker.loss is None:
                    place.is_ended()
            if worker.loss is None:
                return
            num_failed_loads = num_failed_loads + 1 if worker.loaded is None else 0
            if worker.ran_out_of_memory:
                batch_size = max(1, worker.card.batch_size // 2)
        if not self._progress.num_painters:  # else the others go on without this place
            raise EngineNeverLoadedError(f"an actor failed to load its engine {MAX_LOAD_TRIES} times: {worker.loss}")

    async def _load(self, worker: Worker) -> None:
        """Wait for room on the cluster and for the engine. What may pass becomes the worker's loss."""
        try:
            await worker.actor.__ray_ready__.remote()
            worker.place.is_started()
            worker.loaded = await worker.actor.load.remote()
        except (*losses.LOSSES, CheckpointUnreachable) as error:
            await self._lose(worker, reason_of(error))
            await asyncio.sleep(BACKOFF_SECONDS)

    async def _feed(self, worker: Worker) -> None:
        """Keep several shards in flight on one actor until the queue is empty or the actor is lost."""
        self._progress.painter_is_ready(worker.place, worker.card.device, worker.card.node)
        self._workers.add(worker)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(pool.SHARDS_IN_FLIGHT):
                    group.create_task(self._paint_shards(worker))
        finally:
            self._workers.remove(worker)
            if worker.num_images:
                self._num_barren.pop(worker.card.node, None)
            elif worker.loss is not None and not worker.is_leaving:
                self._num_barren[worker.card.node] += 1

    async def _lose(self, worker: Worker, reason: str) -> None:
        """The actor gets no more shards; what it still holds comes back by itself."""
        if worker.loss is None:
            worker.loss = reason
            if worker.is_leaving:
                self._progress.note(reason)
            else:
                self._progress.painter_is_lost(worker.place, reason)
        await self._queue.leave(worker)

    def _barren_nodes(self) -> list[str]:
        """Nodes whose actors come to nothing, as long as another node shows that it is not the job."""
        barren = [node for node, count in self._num_barren.items() if count >= MAX_BARREN_ACTORS]
        return barren if any(one.num_images and one.card.node not in barren for one in self._workers) else []

    # ---- shards ------------------------------------------------------------------------------------------------------

    async def _paint_shards(self, worker: Worker) -> None:
        """Take shards and render them with one actor, one after the other."""
        while (attempt := await self._queue.take(worker)) is not None:
            task = asyncio.create_task(self._render_attempt(worker, attempt))
            self._running[attempt] = task
            try:
                await asyncio.wait((task,))
                if not task.cancelled():  # else another attempt was first
                    task.result()
            finally:
                task.cancel()
                del self._running[attempt]

    async def _render_attempt(self, worker: Worker, attempt: Attempt[Worker]) -> None:
        """Render a shard to its commit, or give it back with what its failure costs."""
        try:
            render = self._isolation.render if attempt.is_alone else self._render_shard
            with worker.place.holds_shard():
                receipt = await render(worker, attempt.shard)
        except PaintingFailedError as error:
            await self._painting_failed(worker, attempt, error)
        except NotTheRowsError as error:
            await self._lose(worker, str(error))
            reason = f"{self._job.workers.max_tries} times, and its rows were tried by halves: {error}"
            await self._queue.give_up(attempt, reason, self._fate)
        except Exception as error:
            if not losses.may_pass(error):
                raise
            await self._try_again(worker, attempt, error)
        else:
            await self._finish(worker, attempt, receipt)

    async def _finish(self, worker: Worker, attempt: Attempt[Worker], receipt: commit.Receipt) -> None:
        rivals = await self._queue.finish(attempt)
        if rivals is None:
            self._path.uncount(worker, receipt.num_images)
            return
        for rival in rivals:
            self._running[rival].cancel()
        shard = attempt.shard
        self._isolation.finished(shard, receipt)
        self._num_finished += 1
        num_expected = shard.num_images(self._job.recipe.images_per_row)
        self._progress.shard_is_committed(num_expected, receipt.num_images, receipt.num_rejected)

    async def _render_shard(self, worker: Worker, shard: Shard) -> commit.Receipt:
        rows = await self._path.read(shard)
        painted = await self._path.paint(worker, shard, rows)
        try:
            return await self._path.commit(rows, [painted])
        except BaseException:
            self._path.uncount(worker, painted.num_images)
            raise

    async def _painting_failed(self, worker: Worker, attempt: Attempt[Worker], error: PaintingFailedError) -> None:
        """The actor or its engine failed over this shard: charge it a try, and halve it once its tries are spent."""
        reason = worker.loss or reason_of(error.cause)
        self._progress.shard_is_retried(reason)
        worker.ran_out_of_memory |= error.is_out_of_memory
        if error.is_actor_lost or attempt.is_alone:  # alone: the next try needs a fresh process
            await self._lose(worker, reason)
        if attempt.is_alone or error.is_preempted or self._is_node_to_blame(worker, attempt.shard):
            await self._queue.release(attempt)
        else:
            await self._queue.put_back(attempt, reason, "alone")

    async def _try_again(self, worker: Worker, attempt: Attempt[Worker], error: Exception) -> None:
        """Give a shard that met a passing fault back to the queue. It is charged a try, unless its node went away."""
        reason = reason_of(error)
        self._progress.shard_is_retried(reason)
        await asyncio.sleep(BACKOFF_SECONDS)
        if self._is_node_to_blame(worker, attempt.shard):
            await self._queue.release(attempt)
        else:
            await self._queue.put_back(attempt, reason, self._fate)

    def _is_node_to_blame(self, worker: Worker, shard: Shard) -> bool:
        """Whether the actor's node is gone. A shard that was there each time several went may have brought it about."""
        if pool.is_node_alive(worker.card.node):
            return False
        self._num_nodes_lost[shard.id] += 1
        return self._num_nodes_lost[shard.id] <= MAX_NODES_LOST

    @property
    def _fate(self) -> Fate:
        """What becomes of a shard that cannot be rendered; where none can, skipping them all would tell nothing."""
        return self._job.workers.on_shard_failure if self._path.num_made else "stop"
