"""How fast the images came: counts of `created_at` by ten seconds, the runs of a job between its pauses, the rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

BUCKET_SECONDS = 10
PAUSE_SECONDS = 600  # a job that made nothing for so long stood still: the time is in no rate
BAR_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MAX_BARS = 120
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A stretch of work without a pause, from its first image to its last, in microseconds since 1970."""

    start: int
    stop: int
    num_images: int

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / MICROSECONDS

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(self.start / MICROSECONDS, UTC)

    @property
    def stopped_at(self) -> datetime:
        return datetime.fromtimestamp(self.stop / MICROSECONDS, UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Images made in a stretch of `seconds`; `after_pause` is the pause before it in seconds, 0 within a run."""

    start: datetime
    seconds: int
    num_images: int
    after_pause: float


@dataclass(kw_only=True, slots=True)
class Pace:
    """Image counts with the first and last moment of each ten seconds; grows with hours, not with images."""

    buckets: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, times: np.ndarray) -> None:
        """Count images by their moments, int64 microseconds [num_images], in any order."""
        times = np.sort(times)
        keys, starts = np.unique(times // (BUCKET_SECONDS * MICROSECONDS), return_index=True)
        for key, part in zip(keys.tolist(), np.split(times, starts[1:]), strict=True):
            self._merge(key, (len(part), int(part[0]), int(part[-1])))

    def merge(self, other: Pace) -> None:
        for key, bucket in other.buckets.items():
            self._merge(key, bucket)

    def _merge(self, key: int, bucket: tuple[int, int, int]) -> None:
        count, first, last = self.buckets.get(key, (0, bucket[1], bucket[2]))
        self.buckets[key] = (count + bucket[0], min(first, bucket[1]), max(last, bucket[2]))

    @property
    def num_images(self) -> int:
        return sum(count for count, _, _ in self.buckets.values())

    @property
    def seconds(self) -> float:
        """Time at work, pauses left out. It begins with the first image: what came before it is not in the manifest."""
        return sum(run.seconds for run in self.runs())

    @property
    def images_per_second(self) -> float | None:
        """The rate over the time at work; None where the images' moments do not span one."""
        runs, seconds = self.runs(), self.seconds
        return (self.num_images - len(runs)) / seconds if seconds > 0 else None

    def runs(self) -> list[Run]:
        """The stretches of work between pauses of more than ten minutes."""
        runs: list[Run] = []
        for key in sorted(self.buckets):
            count, first, last = self.buckets[key]
            if runs and first - runs[-1].stop <= PAUSE_SECONDS * MICROSECONDS:
                runs[-1] = Run(start=runs[-1].start, stop=last, num_images=runs[-1].num_images + count)
            else:
                runs.append(Run(start=first, stop=last, num_images=count))
        return runs

    def bars(self) -> list[Bar]:
        """At most about `MAX_BARS` equal stretches of the time at work, empty ones within a run included."""
        width = next((s for s in BAR_SECONDS if self.seconds / s <= MAX_BARS), BAR_SECONDS[-1])
        return list(self._bars(width))

    def _bars(self, width: int) -> Iterator[Bar]:
        counts: dict[int, int] = {}
        for key, (count, _, _) in self.buckets.items():
            start = key * BUCKET_SECONDS // width
            counts[start] = counts.get(start, 0) + count
        runs = self.runs()
        pauses = {b.start // MICROSECONDS // width: (b.start - a.stop) / MICROSECONDS for a, b in pairwise(runs)}
        for run in runs:
            for start in range(run.start // MICROSECONDS // width, run.stop // MICROSECONDS // width + 1):
                if start in counts:  # a stretch that a pause parts belongs to the run before it
                    moment = datetime.fromtimestamp(start * width, UTC)
                    yield Bar(start=moment, seconds=width, num_images=counts.pop(start), after_pause=pauses.get(start, 0))
                else:
                    yield Bar(start=datetime.fromtimestamp(start * width, UTC), seconds=width, num_images=0, after_pause=0)
