"""The pool of actors: each slot starts one, feeds it shards, and replaces it if it is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from actors.errors import CheckpointUnreachable, DeviceFullError, JobFailure
from workflows.dispatch.actor import SHARDS_IN_FLIGHT, Actor
from workflows.dispatch.bisection import BisectionLimits
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.failures import SYSTEM_FAILURES, reason_of
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import LATE_SECONDS, ShardQueue
from workflows.job import RenderJob


class EngineNeverLoadedError(JobFailure):
    """No actor lived until its engine was loaded, or none could fetch the checkpoint or had the memory for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How often the dispatch loop tries, and how long it waits.

    * `max_load_tries`: failed loads in a row before a slot is given up.
    * `max_barren_actors`: actors that one node loses in a row before they made an image; then other nodes get the new
      actors.
    * `max_nodes_lost`: nodes lost under one shard before the next one costs the shard a try.
    """

    max_load_tries: int = 3
    max_barren_actors: int = 4
    max_nodes_lost: int = 5
    backoff_seconds: float = 2.0
    watch_seconds: float = 1.0
    late_seconds: float = LATE_SECONDS
    bisection: BisectionLimits = field(default_factory=BisectionLimits)


class Pool:
    """As many slots as the cluster may have room for. `actors` are those whose engine is loaded."""

    def __init__(
        self,
        job: RenderJob,
        cluster: Cluster,
        progress: Progress,
        queue: ShardQueue[Actor],
        limits: Limits,
        *,
        num_shards: int,
    ) -> None:
        self._job, self._cluster, self._progress, self._queue, self._limits = job, cluster, progress, queue, limits
        self._num_barren: Counter[str] = Counter()  # node -> actors in a row that were lost before they made an image
        self.num_slots = cluster.pool_size(job, num_shards)
        self.num_cpus = cluster.cpus_per_actor(job, self.num_slots)  # of each actor
        self.actors: set[Actor] = set()

    async def fill_slot(self, render_shards: Callable[[Actor], Coroutine[Any, Any, None]]) -> None:
        """Start an actor and let it `render_shards` until none remain; replace it if it is lost.

        Raises EngineNeverLoadedError if no actor of this slot loads its engine and no other slot has an actor.
        """
        num_failed_loads, batch_size, slot = 0, self._job.workers.batch_size, self._progress.add_slot()
        while num_failed_loads < self._limits.max_load_tries:
            slot.is_requested()
            handle = self._cluster.start_actor(self._job, self.num_cpus, batch_size, self._barren_nodes())
            actor = Actor(handle=handle, slot=slot)
            try:
                await self._load(actor)
                if actor.loaded is not None:
                    await self._feed(actor, render_shards)
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

    async def retire(self, actor: Actor, reason: str) -> None:
        """Give the actor no more shards; those that it holds fail or finish by themselves."""
        if actor.failure is None:
            actor.failure = reason
            if actor.is_leaving:
                self._progress.note(reason)
            else:
                self._progress.actor_is_lost(actor.slot, reason)
        await self._queue.leave(actor)

    async def _load(self, actor: Actor) -> None:
        """Wait for room on the cluster and for the engine. An error that can be retried becomes the actor's failure."""
        try:
            await self._cluster.wait_until_started(actor.handle)
            actor.slot.is_started()
            actor.loaded = await self._cluster.load(actor.handle)
        except (*SYSTEM_FAILURES, CheckpointUnreachable, DeviceFullError) as error:
            await self.retire(actor, reason_of(error))
            await asyncio.sleep(self._limits.backoff_seconds)

    async def _feed(self, actor: Actor, render_shards: Callable[[Actor], Coroutine[Any, Any, None]]) -> None:
        """Keep several shards in flight on one actor until the queue is empty or the actor is lost."""
        self._progress.actor_is_ready(actor.slot, actor.card.device, actor.card.node)
        self.actors.add(actor)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SHARDS_IN_FLIGHT):
                    group.create_task(render_shards(actor))
        finally:
            self.actors.remove(actor)
            if actor.num_images:
                self._num_barren.pop(actor.card.node, None)
            elif actor.failure is not None and not actor.is_leaving:
                self._num_barren[actor.card.node] += 1

    def _barren_nodes(self) -> list[str]:
        """Nodes whose actors all fail, as long as an actor on another node shows that the job is not at fault."""
        barren = [node for node, count in self._num_barren.items() if count >= self._limits.max_barren_actors]
        return barren if any(one.num_images and one.card.node not in barren for one in self.actors) else []
