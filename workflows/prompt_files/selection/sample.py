"""A random sample of rows that depends on the seed and the rows alone.

Every row has a rank, a hash of the seed, the name of its file and its number. The rows with the lowest ranks are the
sample. So a sample of 100 is part of the sample of 200 with the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from workflows.prompt_files.file import PromptFile
from workflows.prompt_files.selection.stream import Rows

MIN_BUFFER = 2**20  # rows to collect before the worse ones are dropped
CANDIDATE = np.dtype([("rank", "<u8"), ("file", "<i8"), ("number", "<i8")])


def sampled(rows: Iterator[Rows], files: Sequence[PromptFile], size: int, seed: int) -> Iterator[Rows]:
    """`size` of the rows, or all if there are fewer, in their order. Memory grows with `size`."""
    keys = [_key(file.name, seed) for file in files]
    best, waiting = np.empty(0, CANDIDATE), []
    for chunk in rows:
        candidates = np.empty(len(chunk.numbers), CANDIDATE)
        candidates["rank"] = _ranks(chunk.numbers, keys[chunk.file])
        candidates["file"], candidates["number"] = chunk.file, chunk.numbers
        waiting.append(candidates)
        if sum(map(len, waiting)) >= max(MIN_BUFFER, size):
            best, waiting = _lowest(np.concatenate([best, *waiting]), size), []
    best = np.sort(_lowest(np.concatenate([best, *waiting]), size), order=["file", "number"])
    for file in np.unique(best["file"]):
        yield Rows(file=int(file), numbers=best["number"][best["file"] == file])


def _lowest(candidates: np.ndarray, size: int) -> np.ndarray:
    return np.sort(candidates, order=["rank", "file", "number"])[:size]


def _key(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")


def _ranks(numbers: np.ndarray, key: int) -> np.ndarray:
    """The finalizer of SplitMix64 over the numbers, shifted by the key (Steele et al., OOPSLA 2014)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)  # wraps around
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
