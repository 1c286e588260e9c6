"""The driver's regular look at what no event reports: silent actors, stragglers, draining nodes, missing room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from workflows.dispatch.actor import Actor
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.failures import SYSTEM_FAILURES, DriverNodeLostError
from workflows.dispatch.pool import Pool
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import ShardQueue
from workflows.job import RenderJob

POSITION_SECONDS = 5.0  # a stuck actor has to report its position
MIN_STALL_SECONDS = 600.0
STALL_FACTOR = 20.0  # times the longest wait that ended with a batch

AnyActor = TypeVar("AnyActor", bound=Hashable)


@dataclass(kw_only=True, slots=True)
class _Silence:
    """How many calls wait for an actor, and since when none of them has received a batch."""

    num_waiting: int
    since: float


class Watchdog(Generic[AnyActor]):
    """Measures how long the driver has waited for an actor's next batch.

    Time in which no call waits for the actor (because writes are slow, say) does not count. With `stall_minutes` None,
    an actor is silent after ten minutes, or after twenty times the longest wait for a batch so far if that is more.
    """

    def __init__(self, stall_minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds, self._clock = None if stall_minutes is None else 60 * stall_minutes, clock
        self._silences: dict[AnyActor, _Silence] = {}
        self._longest = 0.0

    @property
    def stall_seconds(self) -> float:
        if self._stall_seconds is not None:
            return self._stall_seconds
        return max(MIN_STALL_SECONDS, STALL_FACTOR * self._longest)

    @contextmanager
    def listening(self, actor: AnyActor) -> Iterator[None]:
        """Wait for a batch in the block; if it ends without an error, the actor lives for all calls that wait."""
        silence = self._silences.setdefault(actor, _Silence(num_waiting=0, since=self._clock()))
        silence.num_waiting += 1
        try:
            yield
            self._longest = max(self._longest, self._clock() - silence.since)
            silence.since = self._clock()
        finally:
            silence.num_waiting -= 1
            if not silence.num_waiting:
                del self._silences[actor]

    def silent(self) -> dict[AnyActor, float]:
        """The actors that have been silent for too long, with their seconds of silence."""
        now = self._clock()
        ages = {actor: now - silence.since for actor, silence in self._silences.items()}
        return {actor: age for actor, age in ages.items() if age >= self.stall_seconds}


class Watch:
    """Looks at the pool every `seconds`."""

    def __init__(
        self,
        job: RenderJob,
        cluster: Cluster,
        progress: Progress,
        queue: ShardQueue[Actor],
        pool: Pool,
        watchdog: Watchdog[Actor],
        seconds: float,
    ) -> None:
        self._job, self._cluster, self._progress, self._queue = job, cluster, progress, queue
        self._pool, self._watchdog, self._seconds = pool, watchdog, seconds
        self._has_told_room = False

    async def keep(self) -> None:
        """Look until cancelled. Raises DriverNodeLostError: on a node that is lost no actor would ever start."""
        while True:
            await asyncio.sleep(self._seconds)
            await self._queue.offer_late()
            for actor, seconds in self._watchdog.silent().items():
                if actor.failure is None:
                    await self._end_silent(actor, seconds)
            if self._pool.actors:
                await self._leave_draining_nodes()
            if any(slot.state in ("starting", "waiting") for slot in self._progress.slots):
                if not await asyncio.to_thread(self._cluster.is_own_node_alive):
                    raise DriverNodeLostError
                lacking = await asyncio.to_thread(self._cluster.num_lacking_room, self._job, self._pool.num_cpus)
                self._progress.room_is_lacking(lacking)
                await self._tell_room()

    async def _tell_room(self) -> None:
        """Say what the actors wait for while none of them has room: once at the start, and once after all were lost."""
        states = {slot.state for slot in self._progress.slots}
        if self._pool.actors:
            self._has_told_room = False
        elif not self._has_told_room and "waiting" in states and states <= {"waiting", "lost", "ended"}:
            self._has_told_room = True
            room = await asyncio.to_thread(self._cluster.describe_room, self._job, self._pool.num_cpus)
            self._progress.note(room)

    async def _end_silent(self, actor: Actor, seconds: float) -> None:
        """Report a stuck actor, its shards and its position, and kill it; its shards are retried."""
        names = ", ".join(attempt.shard.id for attempt in self._queue.held_by(actor))
        try:
            position = await self._cluster.position_of(actor.handle, POSITION_SECONDS)
        except (TimeoutError, *SYSTEM_FAILURES):
            position = "it does not answer"
        await self._pool.retire(
            actor, f"stuck: {actor.name} rendered nothing for {seconds:.0f} s ({position}), with {names}"
        )
        self._cluster.end_actor(actor.handle)

    async def _leave_draining_nodes(self) -> None:
        """Give no new shards to actors on nodes that are about to go away; other nodes get new actors."""
        draining = await asyncio.to_thread(self._cluster.draining_nodes)
        for actor in list(self._pool.actors):
            if actor.card.node in draining and not actor.is_leaving:
                actor.is_leaving = True
                reason = f"node {actor.card.node[:8]} is draining: {actor.name} takes no more shards"
                await self._pool.retire(actor, reason)
