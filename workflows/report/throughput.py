"""Throughput over time: image counts by ten seconds of `created_at`, and the stretches of work between pauses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

BUCKET_SECONDS = 10
PAUSE_SECONDS = 600  # a longer gap between two images is a pause and counts as no working time
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
    """A bar of the chart; all bars span the same number of seconds.

    At the edge of a run, `images_per_second` is over the part of the bar that the run covers, at least half of it.
    `after_pause` is the length of the pause before the bar in seconds, 0 within a run.
    """

    start: datetime
    seconds: int
    num_images: int
    images_per_second: float
    after_pause: float


@dataclass(kw_only=True, slots=True)
class Throughput:
    """Image counts with the first and last moment of every ten seconds. Memory grows with hours, not with images."""

    buckets: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, times: np.ndarray) -> None:
        """Count images by their times, int64 microseconds since 1970 [num_images], in any order."""
        times = np.sort(times)
        keys, starts = np.unique(times // (BUCKET_SECONDS * MICROSECONDS), return_index=True)
        for key, part in zip(keys.tolist(), np.split(times, starts)[1:], strict=True):
            self._merge(key, (len(part), int(part[0]), int(part[-1])))

    def merge(self, other: Throughput) -> None:
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
        """Working time without pauses. It starts with the first image; the manifest does not record earlier work."""
        return sum(run.seconds for run in self.runs())

    @property
    def images_per_second(self) -> float | None:
        """Images per second of working time; None if there are fewer than two moments."""
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
        """About `MAX_BARS` bars over the working time, including empty ones within a run."""
        width = next((s for s in BAR_SECONDS if self.seconds / s <= MAX_BARS), BAR_SECONDS[-1])
        counts: Counter[int] = Counter()
        for key, (count, _, _) in self.buckets.items():
            counts[key * BUCKET_SECONDS // width] += count
        bars, runs = [], self.runs()
        for before, run in zip([None, *runs], runs, strict=False):
            pause = (run.start - before.stop) / MICROSECONDS if before else 0.0
            for key in range(run.start // MICROSECONDS // width, run.stop // MICROSECONDS // width + 1):
                # A bar that a pause divides is counted with the run before the pause.
                bars.append(_bar(key, width, counts.pop(key, 0), run, pause))
                pause = 0.0
        return bars


def _bar(key: int, width: int, num_images: int, run: Run, pause: float) -> Bar:
    covered = min((key + 1) * width, run.stop / MICROSECONDS) - max(key * width, run.start / MICROSECONDS)
    return Bar(
        start=datetime.fromtimestamp(key * width, UTC),
        seconds=width,
        num_images=num_images,
        images_per_second=num_images / max(covered, width / 2),
        after_pause=pause,
    )
