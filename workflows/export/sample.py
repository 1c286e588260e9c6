"""A sample without a list of what it is drawn from: every image has a random number, and the lowest ones are kept."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


class Sampler:
    """Finds the highest of the `size` lowest numbers, of which it holds at most twice as many."""

    def __init__(self, size: int) -> None:
        self._size, self._num_seen = size, 0
        self._lowest = np.array([], np.uint64)

    def add(self, numbers: npt.NDArray[np.uint64]) -> None:
        self._num_seen += len(numbers)
        self._lowest = np.concatenate([self._lowest, numbers])
        if len(self._lowest) > 2 * self._size:
            self._lowest = np.partition(self._lowest, self._size - 1)[: self._size]

    @property
    def limit(self) -> int:
        """Numbers up to this one are in the sample. Numbers of 64 bits hardly ever tie, and ties are kept."""
        if self._num_seen <= self._size:
            return 2**64 - 1
        return int(np.partition(self._lowest, self._size - 1)[self._size - 1])


def uniform(*parts: object) -> int:
    """A whole number below 2^64 that is as good as random, and the same for the same parts."""
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "big")
