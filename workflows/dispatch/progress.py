"""The counters of a running job, for people and programs to look at; `jobs` decides how they are shown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from workflows.output.throughput import Bucket, Throughput

NUM_NEWEST = 8  # batches that the live report shows before they are committed
WINDOW_SECONDS = 300.0  # of the current throughput: several batches of the slowest model

State = Literal["starting", "waiting", "loading", "rendering", "idle", "lost", "ended"]


class RecentThroughput:
    """Images per second over the last minutes, so that it follows the pool's size. One thread adds, others read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, clock()
        self._counts: deque[tuple[float, int]] = deque()  # (moment, images)

    def add(self, count: int) -> None:
        """Count images now; a negative number takes back images that a failed attempt had counted."""
        now = self._clock()
        self._counts.append((now, count))
        while self._counts[0][0] < now - WINDOW_SECONDS:
            self._counts.popleft()

    @property
    def per_second(self) -> float:
        """Over the last `WINDOW_SECONDS`, or since the start if that is shorter."""
        now = self._clock()
        counted = sum(count for moment, count in list(self._counts) if moment >= now - WINDOW_SECONDS)
        return max(0, counted) / max(min(WINDOW_SECONDS, now - self._since), 1e-9)


@dataclass(kw_only=True, slots=True)
class Slot:
    """One slot of the pool: an actor and, if it is lost, the actor that replaces it.

    A slot is starting (Ray was asked for a process), waiting for room on the cluster, loading its model, rendering,
    idle (it has no shard), lost (and not replaced yet) or ended.
    """

    number: int
    clock: Callable[[], float]
    state: State = "starting"
    device: str = ""
    node: str = ""
    num_images: int = 0
    num_failures: int = 0
    trouble: str = ""
    throughput: RecentThroughput | None = None
    _num_held: int = 0

    @property
    def images_per_second(self) -> float:
        """Over the last minutes."""
        return self.throughput.per_second if self.throughput else 0.0

    def is_requested(self) -> None:
        self.state = "starting"

    def is_started(self) -> None:
        self.state = "loading"

    def is_ready(self, device: str, node: str) -> None:
        self.state, self.device, self.node = "idle", device, node
        self.throughput = RecentThroughput(self.clock)

    @contextmanager
    def holds_shard(self) -> Iterator[None]:
        """The slot is rendering as long as at least one such block is open."""
        self._num_held += 1
        self.state = "rendering"
        try:
            yield
        finally:
            self._num_held -= 1
            if self.state == "rendering" and not self._num_held:
                self.state = "idle"

    def is_lost(self, reason: str) -> None:
        self.state, self.trouble, self.throughput = "lost", reason, None
        self.num_failures += 1

    def is_ended(self) -> None:
        self.state, self.throughput = "ended", None


@dataclass(kw_only=True, slots=True)
class Progress:
    """Counts of this run; images of earlier runs into the same output are in `num_images_before` only.

    `num_images_total` is an upper limit: in a sweep, a row with its own weight asks for fewer images. The total is
    corrected when the row's shard is committed.

    If the job looks at its images, `num_candidates` and `num_rerolls` count the candidates of the written images and
    their tries after the first, and `looking_seconds` is the time that actors spent looking at them.
    """

    name: str = ""
    num_images_total: int = 0
    num_images_before: int = 0
    num_shards_total: int = 0
    num_images: int = 0
    num_rejected: int = 0
    num_bytes: int = 0
    num_candidates: int = 0
    num_rerolls: int = 0
    looking_seconds: float = 0.0
    num_shards: int = 0
    num_retries: int = 0
    last_trouble: str = ""
    last_trouble_at: float | None = None  # seconds since 1970
    slots: list[Slot] = field(default_factory=list)
    newest: deque[Any] = field(default_factory=lambda: deque(maxlen=NUM_NEWEST))  # references to written batches
    clock: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    rendering_since: float | None = None  # the first actor was ready
    written_at: float | None = None  # the last batch was written
    _recent: RecentThroughput | None = None
    _throughput: Throughput = field(default_factory=Throughput)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    # ---- written by the driver -----------------------------------------------------------------------------------

    def add_slot(self) -> Slot:
        self.slots.append(Slot(number=len(self.slots) + 1, clock=self.clock))
        return self.slots[-1]

    def room_is_lacking(self, num_actors: int) -> None:
        """The last `num_actors` of the slots that have no process yet wait for room; the others are starting."""
        requested = [slot for slot in self.slots if slot.state in ("starting", "waiting")]
        for i, slot in enumerate(requested):
            slot.state = "waiting" if i >= len(requested) - num_actors else "starting"

    def actor_is_ready(self, slot: Slot, device: str, node: str) -> None:
        slot.is_ready(device, node)
        if self.rendering_since is None:
            self.rendering_since, self._recent = self.clock(), RecentThroughput(self.clock)

    def actor_is_lost(self, slot: Slot, reason: str) -> None:
        slot.is_lost(reason)
        self.note(reason)

    def images_are_written(self, slot: Slot, num_images: int, num_bytes: int, moment: int) -> None:
        """Count a batch of an actor, written but not committed; `moment` is its `created_at`."""
        self.written_at = self.clock()
        if num_images:
            batch = Bucket(num_images=num_images, first=moment, last=moment, num_first=num_images)
            self._throughput.add_bucket(batch)
        self.num_bytes += num_bytes
        self._count(slot, num_images)

    def images_are_taken_back(self, slot: Slot, num_images: int) -> None:
        """Take back the images of a failed attempt, or of one that another attempt has beaten."""
        self._throughput.take_back(num_images)
        self._count(slot, -num_images)

    def _count(self, slot: Slot, num_images: int) -> None:
        self.num_images += num_images
        slot.num_images += num_images
        for throughput in (self._recent, slot.throughput):
            if throughput is not None:
                throughput.add(num_images)

    def images_are_judged(self, num_candidates: int, num_rerolls: int, seconds: float) -> None:
        """Count what judging written images cost. A failed attempt has cost it too, so nothing is taken back."""
        self.num_candidates += num_candidates
        self.num_rerolls += num_rerolls
        self.looking_seconds += seconds

    def shard_is_committed(self, num_expected: int, num_images: int, num_rejected: int) -> None:
        """Count a shard and correct the total by the images that its rows did not ask for."""
        self.num_shards += 1
        self.num_rejected += num_rejected
        self.num_images_total -= num_expected - num_images - num_rejected

    def shard_is_retried(self, reason: str) -> None:
        self.num_retries += 1
        self.note(reason)

    def note(self, trouble: str) -> None:
        self.last_trouble, self.last_trouble_at = trouble, time.time()

    # ---- read by people and programs -----------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return self.clock() - self.started_at

    @property
    def num_done(self) -> int:
        return self.num_images_before + self.num_images + self.num_rejected

    @property
    def num_actors(self) -> int:
        """Actors with a loaded model."""
        return sum(slot.state in ("rendering", "idle") for slot in self.slots)

    @property
    def num_actors_lost(self) -> int:
        return sum(slot.num_failures for slot in self.slots)

    @property
    def candidates_per_image(self) -> float:
        """Rendered candidates for each written image; 0 if the job looks at no image."""
        return self.num_candidates / self.num_images if self.num_images else 0.0

    @property
    def images_per_second(self) -> float | None:
        """Over this run; None before its second batch. `workflows.output.throughput` has the definition."""
        return self._throughput.images_per_second

    @property
    def images_per_second_now(self) -> float:
        """Over the last minutes; the ETA is estimated from it."""
        return self._recent.per_second if self._recent else 0.0

    @property
    def eta_seconds(self) -> float | None:
        num_left, throughput = max(0, self.num_images_total - self.num_done), self.images_per_second_now
        return num_left / throughput if throughput else None
