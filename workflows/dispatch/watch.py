"""The driver's look, now and then, for what no event tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from workflows.dispatch import failures as losses
from workflows.dispatch import pool
from workflows.dispatch.progress import Progress
from workflows.dispatch.shard_queue import ShardQueue
from workflows.dispatch.steps import Worker
from workflows.dispatch.watchdog import Watchdog
from workflows.job import RenderJob

WATCH_SECONDS = 1.0  # between two looks
PLACE_SECONDS = 5.0  # a stuck actor has to say where it is


class Watch:
    """Late shards, silent actors, nodes about to go away, actors that Ray has no room for.

    `workers` are those that are loaded, as they come and go; `lose` takes one out of the run with a reason.
    """

    def __init__(
        self,
        job: RenderJob,
        progress: Progress,
        queue: ShardQueue[Worker],
        watchdog: Watchdog[Worker],
        workers: set[Worker],
        *,
        num_cpus: float,
        lose: Callable[[Worker, str], Awaitable[None]],
    ) -> None:
        self._job, self._progress, self._queue, self._watchdog = job, progress, queue, watchdog
        self._workers, self._num_cpus, self._lose = workers, num_cpus, lose

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self._queue.offer_late()
            for worker, seconds in self._watchdog.silent().items():
                if worker.loss is None:
                    await self._end_silent(worker, seconds)
            if self._workers:
                await self._leave_draining_nodes()
            if any(place.state in ("starting", "waiting") for place in self._progress.places):
                lacking = await asyncio.to_thread(pool.num_lacking_room, self._job, self._num_cpus)
                self._progress.room_is_lacking(lacking)

    async def _end_silent(self, worker: Worker, seconds: float) -> None:
        """Say which actor is stuck, with what, since when and where, and end it: its shards are tried again."""
        names = ", ".join(attempt.shard.id for attempt in self._queue.shards_of(worker))
        try:
            where: str = await asyncio.wait_for(
                asyncio.wrap_future(worker.actor.whereabouts.remote().future()), PLACE_SECONDS
            )
        except (TimeoutError, *losses.LOSSES):
            where = "it does not answer"
        await self._lose(worker, f"stuck: {worker.name} made nothing for {seconds:.0f} s ({where}), with {names}")
        pool.end_painter(worker.actor)

    async def _leave_draining_nodes(self) -> None:
        """Give actors on a node that is about to go away nothing new; others are started elsewhere."""
        draining = await asyncio.to_thread(pool.draining_nodes)
        for worker in list(self._workers):
            if worker.card.node in draining and not worker.is_leaving:
                worker.is_leaving = True
                await self._lose(worker, f"node {worker.card.node[:8]} is being drained: {worker.name} takes no more")
