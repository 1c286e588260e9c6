"""Rows whose id another row of the job has, too. Their images would share a name and a seed.

First, hashes of all ids are sorted into files on this machine, of which one at a time is in memory. Only the ids whose
hash occurs more than once are compared as text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.prompt_files.file import PromptFile
from workflows.prompt_files.ids import default_id, default_stem
from workflows.prompt_files.selection.stream import scan_rows
from workflows.storage.errors import storage_errors

NUM_READERS = 16  # files that are read at the same time: a store answers after a while
PIECE_ROWS = 2**16  # rows whose ids are Python objects at the same time, in one thread
BUCKET_ROWS = 2**22  # rows per file of hashes, on average
MAX_IDS = 100_000  # to look at in detail

# The rows of a file to render, as chunks of their numbers.
NumbersOf = Callable[[PromptFile], Iterable[np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A row: its file, its number in it, and its position among the rows of the file to render."""

    file: PromptFile
    number: int
    position: int


def rows_with_repeated_ids(
    files: Sequence[PromptFile], numbers_of: NumbersOf, storage: dict[str, Any]
) -> Iterator[tuple[str, Place]]:
    """The rows of which another one has the same id, in their order, with the id; those of up to `MAX_IDS` ids.

    A few of them may be alone, because hashes may be equal by chance. Reads the ids of all rows, unless no file has any
    and the files' names rule out that two rows get the same one. Raises PromptsError, DamagedFileError or StorageError.
    """
    if not any(file.has_ids for file in files) and len({default_stem(file.name) for file in files}) == len(files):
        return
    repeated = _repeated_hashes(files, numbers_of, storage)[:MAX_IDS]
    for file in files if len(repeated) else ():
        start = 0
        for numbers, ids in _ids(file, numbers_of(file), storage):
            for index in np.flatnonzero(np.isin(_hashes(ids), repeated)).tolist():
                if (text := _decoded(ids[index])) is not None:
                    yield text, Place(file=file, number=int(numbers[index]), position=start + index)
            start += len(numbers)


def _repeated_hashes(files: Sequence[PromptFile], numbers_of: NumbersOf, storage: dict[str, Any]) -> np.ndarray:
    """The hashes that several rows have, each once."""
    num_buckets, lock = 1 + sum(file.num_rows for file in files) // BUCKET_ROWS, Lock()
    with tempfile.TemporaryDirectory(prefix="janus-batch-ids-") as folder:
        paths = [f"{folder}/{number}" for number in range(num_buckets)]

        def add(file: PromptFile) -> None:
            for _, ids in _ids(file, numbers_of(file), storage):
                hashes = _hashes([value for value in ids if value is not None])
                bucket = hashes % np.uint64(num_buckets)
                with lock:
                    for number in np.unique(bucket).tolist():
                        with open(paths[number], "ab") as out:
                            hashes[bucket == number].tofile(out)

        with ThreadPoolExecutor(NUM_READERS) as readers:
            for _ in readers.map(add, files):
                pass
        return np.concatenate([_repeated(path) for path in paths])


def _repeated(path: str) -> np.ndarray:
    try:
        hashes = np.fromfile(path, np.uint64)
    except FileNotFoundError:
        return np.empty(0, np.uint64)
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _ids(
    file: PromptFile, chunks: Iterable[np.ndarray], storage: dict[str, Any]
) -> Iterator[tuple[np.ndarray, list[bytes | None]]]:
    """The ids of some rows, given their numbers; None for a row without one."""
    if not file.has_ids:
        stem = default_stem(file.name)
        for chunk in chunks:
            for numbers in _pieces(chunk):
                yield numbers, [default_id(stem, number).encode() for number in numbers.tolist()]
        return
    with storage_errors(file.url):
        for numbers, columns in scan_rows(file, chunks, ["id"], storage):
            for start, piece in enumerate(_pieces(numbers)):
                values = columns["id"].slice(start * PIECE_ROWS, PIECE_ROWS)
                yield piece, _as_text(values).to_pylist()


def _as_text(values: pa.Array) -> pa.Array:
    """Ids as their text in UTF-8; text and whole numbers may be equal."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_integer(values.type):
        values = values.cast(pa.large_string())
    return values.cast(pa.large_binary())


def _pieces(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[start : start + PIECE_ROWS] for start in range(0, len(numbers), PIECE_ROWS))


def _hashes(ids: list[bytes | None]) -> np.ndarray:
    """Hashes that are the same within this process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)


def _decoded(value: bytes | None) -> str | None:
    """The id as text; None for no id, or for bytes that are no text: such rows are rejected."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
