"""The dispatch loop: hands shards to actors until all are committed, and decides what a failure costs a shard.

It sees receipts and counts, no prompts and no pixels.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Literal

from workflows.dispatch.actor import Actor
from workflows.dispatch.bisection import NotTheRowsError
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.drain import Drain, DrainedError
from workflows.dispatch.embedded.aside import run_aside
from workflows.dispatch.failures import RenderFailedError, can_be_retried, first_of, reason_of
from workflows.dispatch.isolation import Isolation
from workflows.dispatch.metrics import reporting
from workflows.dispatch.pool import Limits, Pool
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import Attempt, Fate, ShardFailedError, ShardQueue
from workflows.dispatch.watch import Watch, Watchdog
from workflows.job import RenderJob
from workflows.output import commit
from workflows.plan import Plan, RetryPlan, Shard

NUM_SHARDS_NAMED = 10  # in the message about skipped shards
OnInterrupt = Literal["stop", "drain"]


def render_shards(
    job: RenderJob,
    plan: Plan | RetryPlan,
    cluster: Cluster,
    progress: Progress,
    limits: Limits | None = None,
    *,
    on_interrupt: OnInterrupt = "stop",
) -> None:
    """Render and commit every remaining shard of the plan on a cluster that has been started.

    A Ctrl-C stops at once or drains, and is raised. To drain, the dispatch runs on a thread of its own, next to any
    event loop of the caller.

    Raises ShardFailedError when a shard's tries are used up, DrainedError after a SIGTERM, the engine's own error if it
    cannot be loaded, and any error of a bug. Shards committed by then stay committed.
    """
    try:
        with reporting(progress):
            dispatch = Dispatch(job, plan, cluster, progress, limits or Limits())
            if on_interrupt == "drain":
                run_aside(dispatch.run, dispatch.drain)
            else:
                asyncio.run(dispatch.run())
    except BaseExceptionGroup as group:
        raise first_of(group) from None


class Dispatch:
    """One run over a plan: a queue of shards, a pool of actors, and the path of each shard between them."""

    def __init__(
        self, job: RenderJob, plan: Plan | RetryPlan, cluster: Cluster, progress: Progress, limits: Limits
    ) -> None:
        self._job, self._cluster, self._progress, self._limits = job, cluster, progress, limits
        self._num_shards, self._num_finished = plan.num_shards_remaining, 0
        self._queue: ShardQueue[Actor] = ShardQueue(
            plan.remaining_shards(),
            job.workers.max_tries,
            may_take_alone=lambda shard, actor: self._isolation.may_take(shard, actor, self._pool.actors),
            late_seconds=limits.late_seconds,
            clock=progress.clock,
        )
        self._pool = Pool(job, cluster, progress, self._queue, limits, num_shards=self._num_shards)
        watchdog: Watchdog[Actor] = Watchdog(job.workers.stall_minutes, progress.clock)
        self._watch = Watch(job, cluster, progress, self._queue, self._pool, watchdog, limits.watch_seconds)
        self._steps = cluster.steps(job, progress, watchdog.listening)
        self._isolation = Isolation(cluster, self._steps, limits.bisection)
        self._drain = Drain(job.workers.drain_seconds)
        self._running: dict[Attempt[Actor], asyncio.Task[None]] = {}
        self._num_nodes_lost: Counter[str] = Counter()  # shard id -> nodes that were lost while they rendered it

    async def run(self) -> None:
        """Render until the queue is done or the drain ends. Raises an exception group with the errors of the tasks."""
        with self._drain.on_sigterm():
            async with asyncio.TaskGroup() as group:
                slots = range(self._pool.num_slots)
                tasks = [group.create_task(self._pool.fill_slot(self._render_shards)) for _ in slots]
                tasks.append(group.create_task(self._watch.keep()))
                await self._drain.wait_for(self._queue.wait_until_done(), self._take_no_more)
                for task in tasks:
                    task.cancel()  # including slots that still wait for room on the cluster
        self._check_all_done()

    def drain(self) -> None:
        """End in order, as after a SIGTERM."""
        self._drain.request("interrupted")

    async def _take_no_more(self) -> None:
        seconds = self._drain.grace_seconds
        self._progress.note(f"{self._drain.reason}: the shards in flight have up to {seconds:g} s to finish")
        await self._queue.close()

    def _check_all_done(self) -> None:
        skipped = self._queue.skipped
        if skipped:
            first = itertools.islice(skipped.items(), NUM_SHARDS_NAMED)
            lines = [f"shard {shard_id} failed {reason}" for shard_id, reason in first]
            if len(skipped) > len(lines):
                lines.append(f"and {len(skipped) - len(lines)} more")
            raise ShardFailedError("\n".join([f"shards skipped (on_shard_failure: skip): {len(skipped):,}", *lines]))
        if self._drain.is_requested and self._num_finished < self._num_shards:
            raise DrainedError(
                f"{self._drain.reason}: this run committed {self._num_finished} of {self._num_shards} shards"
            )

    # ---- the path of a shard -----------------------------------------------------------------------------------------

    async def _render_shards(self, actor: Actor) -> None:
        """Take shards and render them with one actor, one after the other."""
        while (attempt := await self._queue.take(actor)) is not None:
            task = asyncio.create_task(self._try_shard(actor, attempt))
            task.add_done_callback(_retrieve)
            self._running[attempt] = task
            try:
                await asyncio.wait((task,))
                if not task.cancelled():  # cancelled if another attempt was first
                    task.result()
            finally:
                task.cancel()
                del self._running[attempt]

    async def _try_shard(self, actor: Actor, attempt: Attempt[Actor]) -> None:
        """Render a shard and commit it, or give it back to the queue with the cost of its failure."""
        try:
            render = self._isolation.render if attempt.is_alone else self._render_shard
            with actor.slot.holds_shard():
                receipt = await render(actor, attempt.shard)
        except RenderFailedError as error:
            await self._render_failed(actor, attempt, error)
        except NotTheRowsError as error:
            await self._pool.retire(actor, str(error))
            reason = f"{self._job.workers.max_tries} times, and bisection found no row at fault: {error}"
            await self._queue.give_up(attempt, reason, self._fate)
        except Exception as error:
            if not can_be_retried(error):
                raise
            await self._retry(actor, attempt, error)
        else:
            await self._finish(actor, attempt, receipt)

    async def _render_shard(self, actor: Actor, shard: Shard) -> commit.Receipt:
        read = await self._steps.read(actor, shard)
        rendered = await self._steps.render(actor, read)
        try:
            return await self._steps.commit(actor, read, [rendered])
        except BaseException:
            self._steps.uncount(actor, rendered.num_images)
            raise

    async def _finish(self, actor: Actor, attempt: Attempt[Actor], receipt: commit.Receipt) -> None:
        rivals = await self._queue.finish(attempt)
        if rivals is None:
            self._steps.uncount(actor, receipt.num_images)
            return
        for rival in rivals:
            self._running[rival].cancel()
        shard = attempt.shard
        self._isolation.finished(shard, receipt)
        self._num_finished += 1
        num_expected = shard.num_images(self._job.recipe.images_per_row)
        self._progress.shard_is_committed(num_expected, receipt.num_images, receipt.num_rejected)

    # ---- the cost of a failure ---------------------------------------------------------------------------------------

    async def _render_failed(self, actor: Actor, attempt: Attempt[Actor], error: RenderFailedError) -> None:
        """The actor or its engine failed over this shard: it uses up a try, and is bisected after its last one."""
        reason = actor.failure or reason_of(error.cause)
        self._progress.shard_is_retried(reason)
        actor.ran_out_of_memory |= error.is_out_of_memory
        if error.is_actor_lost or attempt.is_alone:  # alone: the next try needs a new process
            await self._pool.retire(actor, reason)
        if attempt.is_alone or error.is_preempted or self._is_node_at_fault(actor, attempt.shard):
            await self._queue.release(attempt)
        else:
            await self._queue.put_back(attempt, reason, "alone")

    async def _retry(self, actor: Actor, attempt: Attempt[Actor], error: Exception) -> None:
        """Give a shard back to the queue after a fault that can pass. It uses up a try, unless its node was lost."""
        reason = reason_of(error)
        self._progress.shard_is_retried(reason)
        await asyncio.sleep(self._limits.backoff_seconds)
        if self._is_node_at_fault(actor, attempt.shard):
            await self._queue.release(attempt)
        else:
            await self._queue.put_back(attempt, reason, self._fate)

    def _is_node_at_fault(self, actor: Actor, shard: Shard) -> bool:
        """Whether the actor's node was lost. A shard that loses node after node may itself be the cause."""
        if self._cluster.is_node_alive(actor.card.node):
            return False
        self._num_nodes_lost[shard.id] += 1
        return self._num_nodes_lost[shard.id] <= self._limits.max_nodes_lost

    @property
    def _fate(self) -> Fate:
        """What happens to a shard after its last try. If no shard can be rendered, skipping them all is no use."""
        return self._job.workers.on_shard_failure if self._steps.num_rendered else "stop"


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take note of a task's error, which asyncio would print if another error ends the dispatch first."""
    if not task.cancelled():
        task.exception()
