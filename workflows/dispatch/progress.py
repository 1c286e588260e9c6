"""The numbers of a running job that people and programs look at. How they are shown is the business of `jobs`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from workflows.dispatch.rate import Rate

State = Literal["starting", "waiting", "loading", "painting", "idle", "lost", "ended"]


@dataclass(kw_only=True, slots=True)
class Place:
    """One place in the pool: an actor and, when it is lost, the one that replaces it.

    It is starting (Ray was asked for a process), waiting for room on the cluster, loading its model, painting, idle (no
    shard to paint), lost (and not replaced yet) or ended.
    """

    number: int
    state: State = "starting"
    device: str = ""
    node: str = ""
    num_images: int = 0
    num_losses: int = 0
    trouble: str = ""
    rate: Rate | None = None
    _num_held: int = 0

    @property
    def images_per_second(self) -> float:
        """Of the last minutes."""
        return self.rate.per_second if self.rate else 0.0

    def is_started(self) -> None:
        self.state = "loading"

    def is_ready(self, device: str, node: str) -> None:
        self.state, self.device, self.node = "idle", device, node
        self.rate = Rate()

    @contextmanager
    def holds_shard(self) -> Iterator[None]:
        """It paints while it holds a shard, or several."""
        self._num_held += 1
        self.state = "painting"
        try:
            yield
        finally:
            self._num_held -= 1
            if self.state == "painting" and not self._num_held:
                self.state = "idle"

    def is_lost(self, reason: str) -> None:
        self.state, self.trouble, self.rate = "lost", reason, None
        self.num_losses += 1

    def is_asked_for(self) -> None:
        self.state = "starting"

    def is_ended(self) -> None:
        self.state, self.rate = "ended", None


@dataclass(kw_only=True, slots=True)
class Progress:
    """Counts of this run (not of earlier runs into the same output, apart from `num_images_before`).

    `num_images_total` is what the prompt rows ask for at most: a row with a weight of its own in a sweep asks for
    fewer images, and the count is mended as its shard is committed.
    """

    name: str = ""
    num_images_total: int = 0
    num_images_before: int = 0
    num_shards_total: int = 0
    num_images: int = 0
    num_rejected: int = 0
    num_bytes: int = 0
    num_shards: int = 0
    num_retries: int = 0
    last_trouble: str = ""
    last_trouble_at: float | None = None  # seconds since 1970
    places: list[Place] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    painting_since: float | None = None
    _rate: Rate | None = None

    # ---- what the driver says -----------------------------------------------------------------------------------

    def add_place(self) -> Place:
        self.places.append(Place(number=len(self.places) + 1))
        return self.places[-1]

    def room_is_lacking(self, num_painters: int) -> None:
        """Of the places whose actor is asked for, the last so many wait for room; the others only start."""
        asked = [place for place in self.places if place.state in ("starting", "waiting")]
        for i, place in enumerate(asked):
            place.state = "waiting" if i >= len(asked) - num_painters else "starting"

    def painter_is_ready(self, place: Place, device: str, node: str) -> None:
        place.is_ready(device, node)
        if self.painting_since is None:
            self.painting_since, self._rate = time.monotonic(), Rate()

    def painter_is_lost(self, place: Place, reason: str) -> None:
        place.is_lost(reason)
        self.note(reason)

    def images_are_written(self, place: Place, num_images: int, num_bytes: int = 0) -> None:
        """Images of one actor, in place though not committed; negative where an attempt failed and they count not."""
        self.num_images += num_images
        self.num_bytes += num_bytes
        place.num_images += num_images
        for rate in (self._rate, place.rate):
            if rate is not None:
                rate.add(num_images)

    def shard_is_committed(self, num_expected: int, num_images: int, num_rejected: int) -> None:
        """Its images were counted as they were written; what its rows did not ask for after all is not waited for."""
        self.num_shards += 1
        self.num_rejected += num_rejected
        self.num_images_total -= num_expected - num_images - num_rejected

    def shard_is_retried(self, reason: str) -> None:
        self.num_retries += 1
        self.note(reason)

    def note(self, trouble: str) -> None:
        self.last_trouble, self.last_trouble_at = trouble, time.time()

    # ---- what people ask ----------------------------------------------------------------------------------------

    @property
    def num_done(self) -> int:
        return self.num_images_before + self.num_images + self.num_rejected

    @property
    def num_painters(self) -> int:
        """Actors with a loaded model."""
        return sum(place.state in ("painting", "idle") for place in self.places)

    @property
    def num_painters_lost(self) -> int:
        return sum(place.num_losses for place in self.places)

    @property
    def images_per_second(self) -> float:
        """Of the whole run, since the first actor was ready: loading the model is no part of it."""
        if self.painting_since is None:
            return 0.0
        return self.num_images / max(time.monotonic() - self.painting_since, 1e-9)

    @property
    def images_per_second_now(self) -> float:
        """Of the last minutes: what the time that is left is reckoned by."""
        return self._rate.per_second if self._rate else 0.0

    @property
    def eta_seconds(self) -> float | None:
        num_left, rate = max(0, self.num_images_total - self.num_done), self.images_per_second_now
        return num_left / rate if rate else None
