"""How fast something comes just now: a count over the last minutes, so that a pool that grew or shrank shows."""

from __future__ import annotations

import time
from collections import deque

WINDOW_SECONDS = 300.0  # several batches of the slowest model


class Rate:
    """Counts with their moments. One thread adds, others may read."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """Count now; a negative number takes back what was counted and is lost."""
        now = time.monotonic()
        self._counts.append((now, count))
        while self._counts[0][0] < now - WINDOW_SECONDS:
            self._counts.popleft()

    @property
    def per_second(self) -> float:
        """Over the last `WINDOW_SECONDS`, or since the start where that is shorter."""
        now = time.monotonic()
        counted = sum(count for moment, count in list(self._counts) if moment >= now - WINDOW_SECONDS)
        return max(0, counted) / max(min(WINDOW_SECONDS, now - self._since), 1e-9)
