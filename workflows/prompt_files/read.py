"""Reads rows of Parquet files, a batch of a row group at a time: a row group may be larger than memory."""

from __future__ import annotations

import functools
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.footer import group_edges
from workflows.prompt_files.version import version_of
from workflows.storage.parquet import read_batches
from workflows.storage.store import open_url

BATCH_BYTES = 64 * 2**20  # a smaller row group is one batch
SCAN_BYTES = 8 * 2**20  # of a scan, whose values become Python objects
NUM_CURSORS = 3  # row groups that a process keeps open: of numbers of rows, of the rows, and of the next ones


def read_range(url: str, version: str, options: str, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows `start` to `stop` of a Parquet file. `options` are its storage options as JSON.

    Raises PromptsError if the file has changed since it had this version (empty: files that never change), and
    DamagedFileError if its footer counts other rows than its row groups have.
    """
    _, edges = planned_footer(url, version, options)
    first, last = int(np.searchsorted(edges, start, side="right")) - 1, int(np.searchsorted(edges, stop))
    for group in range(first, min(last, len(edges) - 1)):
        offset, num_rows = int(edges[group]), int(edges[group + 1] - edges[group])
        begin, end = max(start - offset, 0), min(stop - offset, num_rows)
        if begin < end:
            yield from _read_group(url, version, options, group, begin, end)


def read_rows_at(url: str, version: str, options: str, rows: np.ndarray) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Batches, and the positions in them of the rows with these numbers, which ascend.

    Row groups that have none of the rows are not read.
    """
    _, edges = planned_footer(url, version, options)
    for group in np.unique(np.searchsorted(edges, rows, side="right") - 1).tolist():
        first, last = np.searchsorted(rows, edges[group : group + 2])
        wanted = rows[first:last] - edges[group]
        begin = int(wanted[0])
        for batch in _read_group(url, version, options, group, begin, int(wanted[-1]) + 1):
            inside = wanted[np.searchsorted(wanted, begin) : np.searchsorted(wanted, begin + len(batch))]
            if len(inside):
                yield batch, inside - begin
            begin += len(batch)


def scan(url: str, version: str, options: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Those of the columns that the file has, of all rows from the first one on; another column if it has none."""
    with open_planned(url, version, options) as file:
        footer = pq.read_metadata(file)
        own = footer.schema.to_arrow_schema().names
        columns = [name for name in own if name in columns] or own[:1]
        for group in range(footer.num_row_groups):
            yield from read_batches(file, footer, group, SCAN_BYTES, columns)


@functools.lru_cache(maxsize=8)
def planned_footer(url: str, version: str, options: str) -> tuple[pq.FileMetaData, np.ndarray]:
    """The footer of the file, if it has not changed since it was planned, and its `group_edges`.

    Raises PromptsError for a file that has changed, and DamagedFileError for a footer that contradicts itself.
    """
    with open_planned(url, version, options) as file:
        footer = pq.read_metadata(file)
    return footer, group_edges(url, footer)


def open_planned(url: str, version: str, options: str) -> IO[bytes]:
    """The file, if it has not changed since it was planned."""
    fs, path = open_url(url, json.loads(options))
    fs.invalidate_cache()
    found = version_of(fs, fs.info(path)) if version else ""
    if found != version:
        raise PromptsError(f"prompts: {url} was changed after this job was planned (version {version}, now {found})")
    file: IO[bytes] = fs.open(path, "rb")
    return file


class _Cursor:
    """Reads the batches of one row group forwards. The last batch is kept, because the next shard is often in it."""

    def __init__(self, file: IO[bytes], footer: pq.FileMetaData, group: int) -> None:
        self._batches = read_batches(file, footer, group, BATCH_BYTES)
        self._batch: pa.RecordBatch | None = None
        self._start = 0  # of the batch, in the row group

    def is_past(self, row: int) -> bool:
        return row < self._start

    def read(self, begin: int, end: int) -> Iterator[pa.RecordBatch]:
        """Rows of the row group as slices of its batches."""
        while begin < end:
            while self._batch is None or begin >= self._start + len(self._batch):
                self._start += 0 if self._batch is None else len(self._batch)
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise pa.ArrowInvalid(f"it ends before row {end} of a row group")
            part = self._batch.slice(begin - self._start, end - begin)
            yield part
            begin += len(part)


_cursors: OrderedDict[tuple[str, str, str, int], _Cursor] = OrderedDict()  # the last used one at the end


def _read_group(url: str, version: str, options: str, group: int, begin: int, end: int) -> Iterator[pa.RecordBatch]:
    """Rows of one row group. A process reads its shards in ascending order, so a row group is decoded once."""
    key = (url, version, options, group)
    cursor = _cursors.pop(key, None)  # not put back after an error, which ends its batches
    if cursor is None or cursor.is_past(begin):
        footer, _ = planned_footer(url, version, options)
        cursor = _Cursor(open_planned(url, version, options), footer, group)
    yield from cursor.read(begin, end)
    _cursors[key] = cursor
    if len(_cursors) > NUM_CURSORS:
        _cursors.popitem(last=False)
