"""The numbers of a running job that people and programs look at. How they are shown is the business of `jobs`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Progress:
    """Counts of this run (not of earlier runs into the same output, apart from `num_images_before`).

    `num_images_total` is what the prompt rows ask for at most: a row with a weight of its own in a sweep asks for
    fewer images, and the count is mended as its shard is committed.
    """

    num_images_total: int = 0
    num_images_before: int = 0
    num_shards_total: int = 0
    num_images: int = 0
    num_rejected: int = 0
    num_bytes: int = 0
    num_shards: int = 0
    num_painters: int = 0
    num_retries: int = 0
    num_painters_lost: int = 0
    last_trouble: str = ""
    started_at: float = field(default_factory=time.monotonic)
    painting_since: float | None = None

    def painter_is_ready(self) -> None:
        self.num_painters += 1
        if self.painting_since is None:
            self.painting_since = time.monotonic()

    def shard_is_committed(self, num_expected: int, num_images: int, num_rejected: int) -> None:
        """Its images were counted as they were written; what its rows did not ask for after all is not waited for."""
        self.num_shards += 1
        self.num_rejected += num_rejected
        self.num_images_total -= num_expected - num_images - num_rejected

    @property
    def num_done(self) -> int:
        return self.num_images_before + self.num_images + self.num_rejected

    @property
    def images_per_second(self) -> float:
        """Since the first actor was ready: loading the model is no part of the rate an ETA is made from."""
        if self.painting_since is None:
            return 0.0
        return self.num_images / max(time.monotonic() - self.painting_since, 1e-9)

    @property
    def eta_seconds(self) -> float | None:
        num_left = max(0, self.num_images_total - self.num_done)
        return num_left / self.images_per_second if self.images_per_second else None
