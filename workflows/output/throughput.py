"""Throughput, as the terminal, JSON and the report give it: image counts by ten seconds, and stretches between pauses.

It is the number of images after the first batch, over the seconds from the first batch to the last one. A job that is
shorter than two batches has none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

BUCKET_SECONDS = 10
PAUSE_SECONDS = 600  # a longer gap between two images is a pause and counts as no working time
BAR_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MAX_BARS = 120
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A stretch of work without a pause, from its first batch to its last, in microseconds since 1970.

    `num_first` of the images are of the first batch: the time that they took is before `start`.
    """

    start: int
    stop: int
    num_images: int
    num_first: int

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The images of ten seconds, their first and last moment, and how many are of the first one."""

    num_images: int
    first: int
    last: int
    num_first: int

    def __add__(self, other: Bucket) -> Bucket:
        first = min(self.first, other.first)
        return Bucket(
            num_images=self.num_images + other.num_images,
            first=first,
            last=max(self.last, other.last),
            num_first=sum(bucket.num_first for bucket in (self, other) if bucket.first == first),
        )


@dataclass(kw_only=True, slots=True)
class Throughput:
    """Counts of every ten seconds. The images of a batch have one moment. Memory grows with hours, not with images."""

    buckets: dict[int, Bucket] = field(default_factory=dict)

    def add(self, times: np.ndarray) -> None:
        """Count images by their times, int64 microseconds since 1970 [num_images], in any order."""
        times = np.sort(times)
        keys, starts = np.unique(times // (BUCKET_SECONDS * MICROSECONDS), return_index=True)
        for key, part in zip(keys.tolist(), np.split(times, starts)[1:], strict=True):
            first, last = int(part[0]), int(part[-1])
            num_first = int(np.searchsorted(part, first, side="right"))
            self._merge(key, Bucket(num_images=len(part), first=first, last=last, num_first=num_first))

    def merge(self, other: Throughput) -> None:
        for key, bucket in other.buckets.items():
            self._merge(key, bucket)

    def add_bucket(self, bucket: Bucket) -> None:
        """Count images of one moment, or of less than ten seconds."""
        self._merge(bucket.first // (BUCKET_SECONDS * MICROSECONDS), bucket)

    def take_back(self, num_images: int) -> None:
        """Take back images that a failed attempt had counted, the last ones first."""
        for key in sorted(self.buckets, reverse=True):
            bucket = self.buckets[key]
            num_taken = min(num_images, bucket.num_images)
            self.buckets[key] = replace(bucket, num_images=bucket.num_images - num_taken)
            num_images -= num_taken

    def _merge(self, key: int, bucket: Bucket) -> None:
        self.buckets[key] = self.buckets[key] + bucket if key in self.buckets else bucket

    @property
    def num_images(self) -> int:
        return sum(bucket.num_images for bucket in self.buckets.values())

    @property
    def seconds(self) -> float:
        """Working time without pauses. It starts with the first batch; the manifest does not record earlier work."""
        return sum(run.seconds for run in self.runs())

    @property
    def images_per_second(self) -> float | None:
        """Images per second of working time; None if no run has a second batch."""
        runs, seconds = self.runs(), self.seconds
        num_timed = sum(max(0, run.num_images - run.num_first) for run in runs)
        return num_timed / seconds if num_timed and seconds > 0 else None

    def runs(self) -> list[Run]:
        """The stretches of work between pauses of more than ten minutes."""
        runs: list[Run] = []
        for key in sorted(self.buckets):
            bucket = self.buckets[key]
            if runs and bucket.first - runs[-1].stop <= PAUSE_SECONDS * MICROSECONDS:
                runs[-1] = replace(runs[-1], stop=bucket.last, num_images=runs[-1].num_images + bucket.num_images)
            else:
                num_images, num_first = bucket.num_images, bucket.num_first
                runs.append(Run(start=bucket.first, stop=bucket.last, num_images=num_images, num_first=num_first))
        return runs

    def bars(self) -> list[Bar]:
        """About `MAX_BARS` bars over the working time, including empty ones within a run."""
        width = next((s for s in BAR_SECONDS if self.seconds / s <= MAX_BARS), BAR_SECONDS[-1])
        counts: Counter[int] = Counter()
        for key, bucket in self.buckets.items():
            counts[key * BUCKET_SECONDS // width] += bucket.num_images
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
