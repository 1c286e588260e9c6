"""The dispatch loop: slots of the pool, shards to actors, and the cost of a failure. It sees receipts, no pixels."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

from actors.errors import CheckpointUnreachable, JobFailure
from workflows.dispatch.actor import SHARDS_IN_FLIGHT, Actor
from workflows.dispatch.bisection import BisectionLimits, NotTheRowsError
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.drain import Drain, DrainedError
from workflows.dispatch.failures import SYSTEM_FAILURES, RenderFailedError, can_be_retried, first_of, reason_of
from workflows.dispatch.isolation import Isolation
from workflows.dispatch.metrics import ProgressMetrics
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import LATE_SECONDS, Attempt, Fate, ShardFailedError, ShardQueue
from workflows.dispatch.watch import Watch, Watchdog
from workflows.job import RenderJob
from workflows.output import commit
from workflows.plan import Plan, RetryPlan, Shard

NUM_SHARDS_NAMED = 10  # in the message about skipped shards


class EngineNeverLoadedError(JobFailure):
    """No actor lived until its engine was loaded, or none could fetch the checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How often the loop tries, and how long it waits.

    `max_load_tries`: failed loads in a row, per slot. `max_barren_actors`: actors in a row that one node lost before
    they made an image; then other nodes get the new ones. `max_nodes_lost`: nodes lost under one shard before the next
    one costs it a try.
    """

    max_load_tries: int = 3
    max_barren_actors: int = 4
    max_nodes_lost: int = 5
    backoff_seconds: float = 2.0
    watch_seconds: float = 1.0
    late_seconds: float = LATE_SECONDS
    bisection: BisectionLimits = field(default_factory=BisectionLimits)


def render_shards(
    job: RenderJob, plan: Plan | RetryPlan, cluster: Cluster, progress: Progress, limits: Limits | None = None
) -> None:
    """Render and commit every remaining shard of the plan on a cluster that has been started.

    Raises ShardFailedError when a shard's tries are used up, DrainedError after a SIGTERM, the engine's own error if it
    cannot be loaded, and any error of a bug. Shards committed by then stay committed.
    """
    try:
        with ProgressMetrics(progress):
            asyncio.run(Dispatch(job, plan, cluster, progress, limits or Limits()).run())
    except BaseExceptionGroup as group:
        raise first_of(group) from None


class Dispatch:
    """One run over a plan: a queue of shards, and as many actors as the cluster has room for."""

    def __init__(
        self, job: RenderJob, plan: Plan | RetryPlan, cluster: Cluster, progress: Progress, limits: Limits
    ) -> None:
        self._job, self._cluster, self._progress, self._limits = job, cluster, progress, limits
        self._num_shards, self._num_finished = plan.num_shards_remaining, 0
        self._num_slots = cluster.pool_size(job, plan.num_shards_remaining)
        self._num_cpus = cluster.cpus_per_actor(job, self._num_slots)
        self._queue: ShardQueue[Actor] = ShardQueue(
            plan.remaining_shards(),
            job.workers.max_tries,
            may_take_alone=lambda shard, actor: self._isolation.may_take(shard, actor, self._actors),
            late_seconds=limits.late_seconds,
            clock=progress.clock,
        )
        stall_minutes = job.workers.stall_minutes
        watchdog: Watchdog[Actor] = Watchdog(None if stall_minutes is None else 60 * stall_minutes, progress.clock)
        self._drain = Drain(job.workers.drain_seconds)
        self._steps = cluster.steps(job, progress, watchdog.listening)
        self._isolation = Isolation(cluster, self._steps, limits.bisection)
        self._actors: set[Actor] = set()  # that are loaded
        self._watch = Watch(
            job,
            cluster,
            progress,
            self._queue,
            watchdog,
            self._actors,
            num_cpus=self._num_cpus,
            seconds=limits.watch_seconds,
            retire=self._retire,
        )
        self._running: dict[Attempt[Actor], asyncio.Task[None]] = {}
        self._num_nodes_lost: Counter[str] = Counter()  # shard id -> nodes that were lost while they rendered it
        self._num_barren: Counter[str] = Counter()  # node -> actors in a row that were lost before they made an image

    async def run(self) -> None:
        """Render until the queue is done or the drain ends. Raises an exception group with the errors of the tasks."""
        with self._drain.on_sigterm():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fill_slot()) for _ in range(self._num_slots)]
                tasks.append(group.create_task(self._watch.keep()))
                await self._drain.wait_for(self._queue.wait_until_done(), self._take_no_more)
                for task in tasks:
                    task.cancel()  # including those that still wait for room on the cluster
        self._check_all_done()

    async def _take_no_more(self) -> None:
        seconds = self._drain.grace_seconds
        self._progress.note(f"received SIGTERM: the shards in flight have up to {seconds:g} s to finish")
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
                f"received SIGTERM: this run committed {self._num_finished} of {self._num_shards} shards"
            )

    # ---- the pool ----------------------------------------------------------------------------------------------------

    async def _fill_slot(self) -> None:
        """Start an actor, feed it shards until none remain, and replace it if it is lost."""
        num_failed_loads, batch_size, slot = 0, self._job.workers.batch_size, self._progress.add_slot()
        while num_failed_loads < self._limits.max_load_tries:
            slot.is_requested()
            handle = self._cluster.start_actor(self._job, self._num_cpus, batch_size, self._barren_nodes())
            actor = Actor(handle=handle, slot=slot)
            try:
                await self._load(actor)
                if actor.loaded is not None:
                    await self._feed(actor)
            finally:
                self._cluster.end_actor(handle)
                if actor.failure is None:
                    slot.is_ended()
            if actor.failure is None:
                return
            num_failed_loads = num_failed_loads + 1 if actor.loaded is None else 0
            if actor.ran_out_of_memory:
                batch_size = max(1, actor.card.batch_size // 2)
        if not self._progress.num_actors:  # otherwise the other slots continue without this one
            raise EngineNeverLoadedError(
                f"an actor failed to load its engine {num_failed_loads} times: {actor.failure}"
            )

    async def _load(self, actor: Actor) -> None:
        """Wait for room on the cluster and for the engine. An error that can be retried becomes the actor's failure."""
        try:
            await self._cluster.wait_until_started(actor.handle)
            actor.slot.is_started()
            actor.loaded = await self._cluster.load(actor.handle)
        except (*SYSTEM_FAILURES, CheckpointUnreachable) as error:
            await self._retire(actor, reason_of(error))
            await asyncio.sleep(self._limits.backoff_seconds)

    async def _feed(self, actor: Actor) -> None:
        """Keep several shards in flight on one actor until the queue is empty or the actor is lost."""
        self._progress.actor_is_ready(actor.slot, actor.card.device, actor.card.node)
        self._actors.add(actor)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SHARDS_IN_FLIGHT):
                    group.create_task(self._render_shards(actor))
        finally:
            self._actors.remove(actor)
            if actor.num_images:
                self._num_barren.pop(actor.card.node, None)
            elif actor.failure is not None and not actor.is_leaving:
                self._num_barren[actor.card.node] += 1

    async def _retire(self, actor: Actor, reason: str) -> None:
        """Give the actor no more shards; those that it holds fail or finish by themselves."""
        if actor.failure is None:
            actor.failure = reason
            if actor.is_leaving:
                self._progress.note(reason)
            else:
                self._progress.actor_is_lost(actor.slot, reason)
        await self._queue.leave(actor)

    def _barren_nodes(self) -> list[str]:
        """Nodes whose actors all fail, as long as an actor on another node shows that the job is not at fault."""
        barren = [node for node, count in self._num_barren.items() if count >= self._limits.max_barren_actors]
        return barren if any(one.num_images and one.card.node not in barren for one in self._actors) else []

    # ---- shards ------------------------------------------------------------------------------------------------------

    async def _render_shards(self, actor: Actor) -> None:
        """Take shards and render them with one actor, one after the other."""
        while (attempt := await self._queue.take(actor)) is not None:
            task = asyncio.create_task(self._try_shard(actor, attempt))
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
            await self._retire(actor, str(error))
            reason = f"{self._job.workers.max_tries} times, and bisection found no row at fault: {error}"
            await self._queue.give_up(attempt, reason, self._fate)
        except Exception as error:
            if not can_be_retried(error):
                raise
            await self._retry(actor, attempt, error)
        else:
            await self._finish(actor, attempt, receipt)

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

    async def _render_shard(self, actor: Actor, shard: Shard) -> commit.Receipt:
        read = await self._steps.read(shard)
        rendered = await self._steps.render(actor, read)
        try:
            return await self._steps.commit(read, [rendered])
        except BaseException:
            self._steps.uncount(actor, rendered.num_images)
            raise

    async def _render_failed(self, actor: Actor, attempt: Attempt[Actor], error: RenderFailedError) -> None:
        """The actor or its engine failed over this shard: it uses up a try, and is bisected after its last one."""
        reason = actor.failure or reason_of(error.cause)
        self._progress.shard_is_retried(reason)
        actor.ran_out_of_memory |= error.is_out_of_memory
        if error.is_actor_lost or attempt.is_alone:  # alone: the next try needs a new process
            await self._retire(actor, reason)
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
