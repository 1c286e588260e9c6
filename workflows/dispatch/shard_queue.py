"""The shards that are still to be rendered: who takes the next, what comes back after a failure, when all is done."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from actors.errors import JobFailure
from workflows.dispatch.stragglers import Stragglers
from workflows.plan import Shard

# What becomes of a shard whose tries are spent: the job stops, goes on without it, or the shard is halved.
Fate = Literal["stop", "skip", "alone"]
Holder = TypeVar("Holder", bound=Hashable)


class ShardFailedError(JobFailure):
    """A shard failed as often as the job allows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attempt(Generic[Holder]):
    """A shard in the hands of a holder (an actor). `is_alone`: it is being halved and has the actor to itself."""

    shard: Shard
    holder: Holder
    since: float
    is_alone: bool = False


class ShardQueue(Generic[Holder]):
    """Hands out each shard once, again after a failure until its tries are spent, and twice if it is far behind.

    A holder has at most one shard at a time that failed before. So a shard that ends the process of every actor it
    meets is found by its own failures: what was beside it has failed once, and is not beside it again.
    """

    def __init__(
        self,
        shards: Iterator[Shard],
        max_tries: int,
        *,
        may_take_alone: Callable[[Shard, Holder], bool] = lambda shard, holder: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh, self._returned, self._late = shards, deque[Shard](), deque[Shard]()
        self._alone: deque[Shard] = deque()  # to be halved, waiting for an actor of their own
        self._kept_for: dict[str, Holder] = {}  # shard id -> the holder that empties its hands for it
        self._max_tries, self._may_take_alone, self._clock = max_tries, may_take_alone, clock
        self._failures: Counter[str] = Counter()
        self._attempts: dict[str, list[Attempt[Holder]]] = {}  # shard id -> those who render it
        self._held: dict[Holder, list[Attempt[Holder]]] = {}
        self._gone: set[Holder] = set()
        self._stragglers = Stragglers()
        self._is_closed = False
        self._changed = asyncio.Condition()
        self.skipped: dict[str, str] = {}  # shard id -> reason

    async def take(self, holder: Holder) -> Attempt[Holder] | None:
        """The next shard; waits while others might still come back; None when there is no more for this holder."""
        async with self._changed:
            while not self._is_closed and holder not in self._gone:
                attempt = self._next_for(holder)
                if attempt is not None:
                    self._attempts.setdefault(attempt.shard.id, []).append(attempt)
                    self._held.setdefault(holder, []).append(attempt)
                    return attempt
                if self._is_done():
                    break
                await self._changed.wait()
            return None

    async def finish(self, attempt: Attempt[Holder]) -> list[Attempt[Holder]] | None:
        """The shard is committed; the other attempts at it, for nobody. None if one of them was first."""
        async with self._changed:
            attempts = self._attempts.pop(attempt.shard.id, None)
            if attempts is None:
                return None
            for one in attempts:
                self._held[one.holder].remove(one)
            self._failures.pop(attempt.shard.id, None)
            self._stragglers.add(self._clock() - attempt.since)
            if attempt.is_alone or self._returned or self._alone or self._is_done():
                self._changed.notify_all()
            return [one for one in attempts if one is not attempt]

    async def put_back(self, attempt: Attempt[Holder], reason: str, fate: Fate = "stop") -> None:
        """The shard failed and is to be tried again, or meets its fate. Raises ShardFailedError if that is `stop`."""
        async with self._changed:
            shard = attempt.shard
            self._failures[shard.id] += 1
            if not self._drop(attempt):
                return
            if self._failures[shard.id] < self._max_tries:
                self._return(attempt)
            elif fate == "alone":
                self._failures[shard.id] = 0
                self._alone.append(shard)
            else:
                self._give_up(shard, f"{self._max_tries} times, the last time with: {reason}", fate)
            self._changed.notify_all()

    async def give_up(self, attempt: Attempt[Holder], reason: str, fate: Fate) -> None:
        """The shard has no more tries. Raises ShardFailedError, or leaves it out if its fate is `skip`."""
        async with self._changed:
            if self._drop(attempt):
                self._give_up(attempt.shard, reason, fate)
            self._changed.notify_all()

    async def release(self, attempt: Attempt[Holder]) -> None:
        """The shard was taken, and whatever became of it is not its fault."""
        async with self._changed:
            if self._drop(attempt):
                self._return(attempt)
            self._changed.notify_all()

    async def leave(self, holder: Holder) -> None:
        """This holder takes no more; what it holds it may finish."""
        async with self._changed:
            self._gone.add(holder)
            self._kept_for = {shard_id: one for shard_id, one in self._kept_for.items() if one != holder}
            self._changed.notify_all()

    async def close(self) -> None:
        """Nobody takes any more; what is held may be finished, and then all is done."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def offer_late(self) -> None:
        """Offer the shards that are far behind the others to holders that have nothing to do."""
        late_seconds = self._stragglers.late_seconds
        if late_seconds is None:
            return
        async with self._changed:
            now, alone = self._clock(), [attempts[0] for attempts in self._attempts.values() if len(attempts) == 1]
            self._late = deque(one.shard for one in alone if now - one.since > late_seconds and not one.is_alone)
            if self._late:
                self._changed.notify_all()

    def shards_of(self, holder: Holder) -> list[Attempt[Holder]]:
        """What this holder renders at the moment."""
        return list(self._held.get(holder, ()))

    async def wait_until_done(self) -> None:
        """Return when no shard is left and none is being rendered."""
        async with self._changed:
            await self._changed.wait_for(self._is_done)

    def _next_for(self, holder: Holder) -> Attempt[Holder] | None:
        """A shard that came back, if this holder may have it, else a fresh one of the plan, else a late one."""
        held = self._held.get(holder, [])
        if any(one.is_alone for one in held):
            return None
        for shard in self._alone:
            if not self._may_take_alone(shard, holder):
                continue
            if not held:
                return self._start_alone(shard, holder)
            if self._kept_for.setdefault(shard.id, holder) == holder:
                return None
        is_retrying = any(self._failures[one.shard.id] for one in held)
        for shard in self._returned:
            if not (is_retrying and self._failures[shard.id]):
                self._returned.remove(shard)
                return self._start(shard, holder)
        fresh = next(self._fresh, None)
        if fresh is None and not held:
            fresh = self._take_late(holder)
        return None if fresh is None else self._start(fresh, holder)

    def _take_late(self, holder: Holder) -> Shard | None:
        for shard in self._late:
            attempts = self._attempts.get(shard.id, [])
            if len(attempts) == 1 and attempts[0].holder != holder:
                self._late.remove(shard)
                return shard
        return None

    def _start(self, shard: Shard, holder: Holder, *, is_alone: bool = False) -> Attempt[Holder]:
        return Attempt(shard=shard, holder=holder, since=self._clock(), is_alone=is_alone)

    def _start_alone(self, shard: Shard, holder: Holder) -> Attempt[Holder]:
        self._alone.remove(shard)
        self._kept_for.pop(shard.id, None)
        return self._start(shard, holder, is_alone=True)

    def _drop(self, attempt: Attempt[Holder]) -> bool:
        """Take an attempt off; whether its shard is nobody's now."""
        attempts = self._attempts.get(attempt.shard.id, [])
        if attempt not in attempts:  # another was first
            return False
        attempts.remove(attempt)
        self._held[attempt.holder].remove(attempt)
        if not attempts:
            del self._attempts[attempt.shard.id]
        return not attempts

    def _return(self, attempt: Attempt[Holder]) -> None:
        (self._alone if attempt.is_alone else self._returned).append(attempt.shard)

    def _give_up(self, shard: Shard, reason: str, fate: Fate) -> None:
        if fate != "skip":
            raise ShardFailedError(f"shard {shard.id} failed {reason}")
        self.skipped[shard.id] = reason

    def _is_done(self) -> bool:
        if self._attempts:
            return False
        return self._is_closed or not (self._returned or self._alone or self._has_fresh())

    def _has_fresh(self) -> bool:
        """Whether the plan has another shard; it is kept for the next to take."""
        shard = next(self._fresh, None)
        if shard is not None:
            self._returned.append(shard)
        return shard is not None
