"""The shards that are still to be rendered: who takes the next, what comes back after a failure, when all is done."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator

from actors.errors import JobFailure
from workflows.plan import Shard


class ShardFailedError(JobFailure):
    """A shard failed as often as the job allows."""


class ShardQueue:
    """Hands out each shard once, and again after a failure until its tries are spent."""

    def __init__(self, shards: Iterator[Shard], max_tries: int) -> None:
        self._fresh, self._returned = shards, deque[Shard]()
        self._max_tries = max_tries
        self._failures: Counter[str] = Counter()
        self._num_taken = 0
        self._changed = asyncio.Condition()

    async def take(self) -> Shard | None:
        """The next shard; waits while others might still come back; None when every shard is finished."""
        async with self._changed:
            while True:
                shard = self._returned.popleft() if self._returned else next(self._fresh, None)
                if shard is not None:
                    self._num_taken += 1
                    return shard
                if not self._num_taken:
                    return None
                await self._changed.wait()

    async def finish(self, shard: Shard) -> None:
        """The shard is committed."""
        async with self._changed:
            self._num_taken -= 1
            self._failures.pop(shard.id, None)
            self._changed.notify_all()

    async def put_back(self, shard: Shard, reason: str) -> None:
        """The shard failed and is to be tried again. Raises ShardFailedError if its tries are spent."""
        self._failures[shard.id] += 1
        if self._failures[shard.id] >= self._max_tries:
            raise ShardFailedError(f"shard {shard.id} failed {self._max_tries} times, the last time with: {reason}")
        await self.release(shard)

    async def release(self, shard: Shard) -> None:
        """The shard was taken and not tried."""
        async with self._changed:
            self._num_taken -= 1
            self._returned.append(shard)
            self._changed.notify_all()

    async def wait_until_done(self) -> None:
        """Return when no shard is left and none is being rendered."""
        async with self._changed:
            while True:
                if not self._num_taken and not self._returned and not self._has_fresh():
                    return
                await self._changed.wait()

    def _has_fresh(self) -> bool:
        """Whether the plan has another shard; it is kept for the next to take."""
        shard = next(self._fresh, None)
        if shard is not None:
            self._returned.append(shard)
        return shard is not None
