"""Rows that ask for the same images as an earlier row, found in constant memory.

A row counts as a duplicate if its prompt, its negative prompt and every setting that it has of its own are those of an
earlier row. Its id and its carried columns do not count. Hashes of the rows are sorted into files on this machine, of
which one at a time is in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from workflows.prompt_files.file import PromptFile
from workflows.prompt_files.selection.hashes import with_hashes
from workflows.prompt_files.selection.stream import Rows

NUM_BUCKETS = 64
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("position", "<u8")])  # the hash of a row, and its position


def first_of_each(
    rows: Iterator[Rows],
    files: Sequence[PromptFile],
    storage: dict[str, Any],
    folder: str,
) -> Iterator[Rows]:
    """The rows without duplicates. `folder` is for 32 bytes a row on the local disk."""
    chunks = []  # (file, number of rows)
    with _Buckets(folder) as buckets, open(f"{folder}/numbers", "wb") as numbers:
        for chunk, hashes in with_hashes(rows, files, storage):
            chunks.append((chunk.file, len(chunk.numbers)))
            chunk.numbers.astype("<i8").tofile(numbers)
            buckets.add(hashes)
        is_first = buckets.first_positions()
    start = 0
    with open(f"{folder}/numbers", "rb") as stored:
        for file, length in chunks:
            found = np.fromfile(stored, "<i8", length)
            yield Rows(file=file, numbers=found[is_first[start : start + length]])
            start += length


def count_duplicates(rows: Iterator[Rows], files: Sequence[PromptFile], storage: dict[str, Any]) -> int:
    """How many of the rows ask for the same images as an earlier one."""
    with tempfile.TemporaryDirectory(prefix="janus-batch-duplicates-") as folder, _Buckets(folder) as buckets:
        for _, hashes in with_hashes(rows, files, storage):
            buckets.add(hashes)
        return int(np.count_nonzero(~buckets.first_positions()))


class _Buckets:
    """Hashes of rows on disk, in files by their last bits: equal hashes are in the same file."""

    def __init__(self, folder: str) -> None:
        self._paths = [f"{folder}/bucket-{number}" for number in range(NUM_BUCKETS)]
        self._files = [open(path, "wb") for path in self._paths]  # noqa: SIM115 (closed by __exit__)
        self._length = 0

    def __enter__(self) -> _Buckets:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, hashes: np.ndarray) -> None:
        """Add the hashes of the next rows, [N, 2] of uint64."""
        records = np.empty(len(hashes), RECORD)
        records["high"], records["low"] = hashes[:, 0], hashes[:, 1]
        records["position"] = np.arange(self._length, self._length + len(hashes))
        self._length += len(hashes)
        bucket = hashes[:, 1] % NUM_BUCKETS
        for number in np.unique(bucket):
            records[bucket == number].tofile(self._files[number])

    def first_positions(self) -> np.ndarray:
        """For each row whether its hash is the first of its kind: a boolean, which is one byte in memory."""
        is_first = np.ones(self._length, dtype=bool)
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            records = np.fromfile(path, RECORD)
            records = records[np.lexsort((records["position"], records["low"], records["high"]))]
            is_again = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            is_first[records["position"][1:][is_again]] = False
        return is_first
