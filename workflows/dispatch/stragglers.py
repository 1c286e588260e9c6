"""When a shard is so far behind the others that an idle actor may render it too."""

from __future__ import annotations

import statistics
from collections import deque

MIN_FINISHED = 3  # shards, before anything is late
NUM_REMEMBERED = 200
LATE_FACTOR = 3.0  # times the median of the shards that are finished
LATE_SECONDS = 30.0  # at least


class Stragglers:
    """The durations of finished shards, and the age at which a shard is late."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def late_seconds(self) -> float | None:
        """The age of a late shard; None while too few are finished to tell."""
        if len(self._seconds) < MIN_FINISHED:
            return None
        return max(LATE_SECONDS, LATE_FACTOR * statistics.median(self._seconds))
