"""The queue of shards: which actor takes which shard next, what returns after a failure, and when all is done."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from actors.errors import JobFailure
from workflows.plan import Shard

MIN_FINISHED = 3  # shards, before any shard counts as late
NUM_REMEMBERED = 200  # durations of finished shards
LATE_FACTOR = 3.0  # times the median duration
LATE_SECONDS = 30.0  # no shard is late before

# After the last try of a shard, the job stops, or continues without it, or bisects it alone on an actor.
Fate = Literal["stop", "skip", "alone"]
Actor = TypeVar("Actor", bound=Hashable)


class ShardFailedError(JobFailure):
    """A shard failed as often as the job allows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attempt(Generic[Actor]):
    """A shard held by an actor. `is_alone`: the shard is being bisected and has the actor to itself."""

    shard: Shard
    actor: Actor
    since: float
    is_alone: bool = False


class ShardQueue(Generic[Actor]):
    """Hands out each shard once, again after a failure until its tries are used up, and twice if it is a straggler.

    An actor holds at most one shard at a time that has failed before. So a shard that kills every actor it meets is
    found by its own failures: a neighbor fails along with it once, and they never share an actor again.
    """

    def __init__(
        self,
        shards: Iterator[Shard],
        max_tries: int,
        *,
        may_take_alone: Callable[[Shard, Actor], bool] = lambda shard, actor: True,
        late_seconds: float = LATE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh, self._returned, self._late = shards, deque[Shard](), deque[Shard]()
        self._alone: deque[Shard] = deque()  # shards to bisect, waiting for an actor of their own
        self._kept_for: dict[str, Actor] = {}  # shard id -> the actor that finishes its other shards to take it
        self._max_tries, self._may_take_alone, self._clock = max_tries, may_take_alone, clock
        self._failures: Counter[str] = Counter()
        self._attempts: dict[str, list[Attempt[Actor]]] = {}  # by shard id
        self._held: dict[Actor, list[Attempt[Actor]]] = {}
        self._gone: set[Actor] = set()
        self._late_seconds, self._durations = late_seconds, deque[float](maxlen=NUM_REMEMBERED)
        self._is_closed = False
        self._changed = asyncio.Condition()
        self.skipped: dict[str, str] = {}  # shard id -> reason

    async def take(self, actor: Actor) -> Attempt[Actor] | None:
        """The next shard. Waits while others may still return; None if there are no more for this actor."""
        async with self._changed:
            while not self._is_closed and actor not in self._gone:
                attempt = self._next_for(actor)
                if attempt is not None:
                    self._attempts.setdefault(attempt.shard.id, []).append(attempt)
                    self._held.setdefault(actor, []).append(attempt)
                    return attempt
                if self._is_done():
                    break
                await self._changed.wait()
            return None

    async def finish(self, attempt: Attempt[Actor]) -> list[Attempt[Actor]] | None:
        """The shard is committed. Returns the other attempts at it, now useless; None if one of them was first."""
        async with self._changed:
            attempts = self._attempts.pop(attempt.shard.id, None)
            if attempts is None:
                return None
            for one in attempts:
                self._held[one.actor].remove(one)
            self._failures.pop(attempt.shard.id, None)
            self._durations.append(self._clock() - attempt.since)
            if attempt.is_alone or self._returned or self._alone or self._is_done():
                self._changed.notify_all()
            return [one for one in attempts if one is not attempt]

    async def put_back(self, attempt: Attempt[Actor], reason: str, fate: Fate = "stop") -> None:
        """The shard failed: retry it, or apply `fate` after its last try. Raises ShardFailedError for `stop`."""
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

    async def give_up(self, attempt: Attempt[Actor], reason: str, fate: Fate) -> None:
        """The shard gets no more tries. Raises ShardFailedError, or skips the shard if its fate is `skip`."""
        async with self._changed:
            if self._drop(attempt):
                self._give_up(attempt.shard, reason, fate)
            self._changed.notify_all()

    async def release(self, attempt: Attempt[Actor]) -> None:
        """The attempt failed through no fault of the shard: retry it without using up a try."""
        async with self._changed:
            if self._drop(attempt):
                self._return(attempt)
            self._changed.notify_all()

    async def leave(self, actor: Actor) -> None:
        """The actor takes no more shards; it may finish those it holds."""
        async with self._changed:
            self._gone.add(actor)
            self._kept_for = {shard_id: one for shard_id, one in self._kept_for.items() if one != actor}
            self._changed.notify_all()

    async def close(self) -> None:
        """Hand out no more shards. The queue is done once the shards in flight are finished."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def offer_late(self) -> None:
        """Offer the stragglers to actors that have nothing to do."""
        if len(self._durations) < MIN_FINISHED:
            return
        late_seconds = max(self._late_seconds, LATE_FACTOR * statistics.median(self._durations))
        async with self._changed:
            now, single = self._clock(), [attempts[0] for attempts in self._attempts.values() if len(attempts) == 1]
            self._late = deque(one.shard for one in single if now - one.since > late_seconds and not one.is_alone)
            if self._late:
                self._changed.notify_all()

    def held_by(self, actor: Actor) -> list[Attempt[Actor]]:
        """The shards that this actor holds now."""
        return list(self._held.get(actor, ()))

    async def wait_until_done(self) -> None:
        """Return once no shard remains and none is in flight."""
        async with self._changed:
            await self._changed.wait_for(self._is_done)

    def _next_for(self, actor: Actor) -> Attempt[Actor] | None:
        """A shard that returned, if this actor may have it, otherwise a fresh one of the plan, otherwise a late one."""
        held = self._held.get(actor, [])
        if any(one.is_alone for one in held):
            return None
        for shard in self._alone:
            if not self._may_take_alone(shard, actor):
                continue
            if not held:
                return self._start_alone(shard, actor)
            if self._kept_for.setdefault(shard.id, actor) == actor:
                return None
        is_retrying = any(self._failures[one.shard.id] for one in held)
        for shard in self._returned:
            if not (is_retrying and self._failures[shard.id]):
                self._returned.remove(shard)
                return self._start(shard, actor)
        fresh = next(self._fresh, None)
        if fresh is None and not held:
            fresh = self._take_late(actor)
        return None if fresh is None else self._start(fresh, actor)

    def _take_late(self, actor: Actor) -> Shard | None:
        for shard in self._late:
            attempts = self._attempts.get(shard.id, [])
            if len(attempts) == 1 and attempts[0].actor != actor:
                self._late.remove(shard)
                return shard
        return None

    def _start(self, shard: Shard, actor: Actor, *, is_alone: bool = False) -> Attempt[Actor]:
        return Attempt(shard=shard, actor=actor, since=self._clock(), is_alone=is_alone)

    def _start_alone(self, shard: Shard, actor: Actor) -> Attempt[Actor]:
        self._alone.remove(shard)
        self._kept_for.pop(shard.id, None)
        return self._start(shard, actor, is_alone=True)

    def _drop(self, attempt: Attempt[Actor]) -> bool:
        """Remove an attempt; True if no other attempt at its shard is left."""
        attempts = self._attempts.get(attempt.shard.id, [])
        if attempt not in attempts:  # another attempt has committed the shard
            return False
        attempts.remove(attempt)
        self._held[attempt.actor].remove(attempt)
        if not attempts:
            del self._attempts[attempt.shard.id]
        return not attempts

    def _return(self, attempt: Attempt[Actor]) -> None:
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
        """Whether the plan has another shard, which is kept for the next actor."""
        shard = next(self._fresh, None)
        if shard is not None:
            self._returned.append(shard)
        return shard is not None
