"""Which actors have gone silent: asked for images, and for too long nothing came. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

MIN_STALL_SECONDS = 600.0
STALL_FACTOR = 20.0  # times the longest silence that ended with a batch

Actor = TypeVar("Actor", bound=Hashable)


@dataclass(kw_only=True, slots=True)
class _Silence:
    """How many calls wait for an actor, and since when none of them heard anything."""

    num_waiting: int
    since: float


class Watchdog(Generic[Actor]):
    """Hears when batches come. Time in which nobody waits for an actor (writes are behind, say) does not count.

    `stall_seconds` None: ten minutes, or twenty times the longest wait for a batch so far if that is more.
    """

    def __init__(self, stall_seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds, self._clock = stall_seconds, clock
        self._silences: dict[Actor, _Silence] = {}
        self._longest = 0.0

    @property
    def stall_seconds(self) -> float:
        if self._stall_seconds is not None:
            return self._stall_seconds
        return max(MIN_STALL_SECONDS, STALL_FACTOR * self._longest)

    @contextmanager
    def listening(self, actor: Actor) -> Iterator[None]:
        """While the block waits for the actor; that it ends without an error is a sign of life for all who wait."""
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

    def silent(self) -> dict[Actor, float]:
        """The actors that have been silent for too long, and for how many seconds."""
        now = self._clock()
        ages = {actor: now - silence.since for actor, silence in self._silences.items()}
        return {actor: age for actor, age in ages.items() if age >= self.stall_seconds}
