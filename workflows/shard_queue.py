"""The shards that are still to be rendered: who takes the next, what comes back after a failure, when all is done."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Hashable, Iterator

from actors.errors import JobFailure
from workflows.plan import Shard


class ShardFailedError(JobFailure):
    """A shard failed as often as the job allows."""


class ShardQueue:
    """Hands out each shard once, and again after a failure until its tries are spent.

    A holder (an actor) has at most one shard at a time that failed before. So a shard that ends the process of every
    actor it meets is found by its own failures: what was beside it has failed once, and is not beside it again.
    """

    def __init__(self, shards: Iterator[Shard], max_tries: int) -> None:
        self._fresh, self._returned = shards, deque[Shard]()
        self._max_tries = max_tries
        self._failures: Counter[str] = Counter()
        self._taken: dict[str, Hashable] = {}  # shard id -> its holder
        self._changed = asyncio.Condition()

    async def take(self, holder: Hashable) -> Shard | None:
        """The next shard; waits while others might still come back; None when every shard is finished."""
        async with self._changed:
            while True:
                shard = self._next_for(holder)
                if shard is not None:
                    self._taken[shard.id] = holder
                    return shard
                if self._is_done():
                    return None
                await self._changed.wait()

    async def finish(self, shard: Shard) -> None:
        """The shard is committed."""
        async with self._changed:
            del self._taken[shard.id]
            self._failures.pop(shard.id, None)
            self._changed.notify_all()

    async def put_back(self, shard: Shard, reason: str) -> None:
        """The shard failed and is to be tried again. Raises ShardFailedError if its tries are spent."""
        self._failures[shard.id] += 1
        if self._failures[shard.id] >= self._max_tries:
            raise ShardFailedError(f"shard {shard.id} failed {self._max_tries} times, the last time with: {reason}")
        await self.release(shard)

    async def release(self, shard: Shard) -> None:
        """The shard was taken, and whatever became of it is not its fault."""
        async with self._changed:
            del self._taken[shard.id]
            self._returned.append(shard)
            self._changed.notify_all()

    async def wait_until_done(self) -> None:
        """Return when no shard is left and none is being rendered."""
        async with self._changed:
            await self._changed.wait_for(self._is_done)

    def _next_for(self, holder: Hashable) -> Shard | None:
        """A shard that came back, if this holder may have it, else a fresh one of the plan."""
        is_retrying = any(self._failures[shard_id] for shard_id, other in self._taken.items() if other == holder)
        for shard in self._returned:
            if not (is_retrying and self._failures[shard.id]):
                self._returned.remove(shard)
                return shard
        return next(self._fresh, None)

    def _is_done(self) -> bool:
        return not self._taken and not self._returned and not self._has_fresh()

    def _has_fresh(self) -> bool:
        """Whether the plan has another shard; it is kept for the next to take."""
        shard = next(self._fresh, None)
        if shard is not None:
            self._returned.append(shard)
        return shard is not None
