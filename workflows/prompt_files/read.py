"""Reads ranges of rows, a batch of a row group at a time: a row group may be larger than memory."""

from __future__ import annotations

import functools
import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.prompt_files.file import PromptFile, PromptsError
from workflows.prompt_files.version import version_of
from workflows.storage.parquet import read_batches
from workflows.storage.store import open_url

BATCH_BYTES = 64 * 2**20  # a smaller row group is one batch
NUM_CURSORS = 2  # row groups that a process keeps open


class _Cursor:
    """Reads the batches of one row group forwards. The last batch is kept, because the next shard is often in it."""

    def __init__(self, file: IO[bytes], group: int) -> None:
        self._batches = read_batches(file, group, BATCH_BYTES)
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


def read_group(file: PromptFile, options: str, group: int, begin: int, end: int) -> list[pa.RecordBatch]:
    """Rows of one row group. A process reads its shards in ascending order, so a row group is decoded once."""
    key = (file.url, file.version, options, group)
    cursor = _cursors.pop(key, None)  # not put back after an error, which ends its batches
    if cursor is None or cursor.is_past(begin):
        cursor = _Cursor(_open_planned(file.url, file.version, options), group)
    parts = list(cursor.read(begin, end))
    _cursors[key] = cursor
    if len(_cursors) > NUM_CURSORS:
        _cursors.popitem(last=False)
    return parts


@functools.lru_cache(maxsize=8)
def group_rows(url: str, version: str, options: str) -> tuple[int, ...]:
    """The rows of each row group."""
    with _open_planned(url, version, options) as file:
        metadata = pq.read_metadata(file)
    return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


def _open_planned(url: str, version: str, options: str) -> IO[bytes]:
    """The prompt file, if it has not changed since it was planned. `options` are the storage options as JSON."""
    fs, path = open_url(url, json.loads(options))
    fs.invalidate_cache()
    found = version_of(fs, fs.info(path))
    if found != version:
        raise PromptsError(f"prompts: {url} was changed after this job was planned (version {version}, now {found})")
    file: IO[bytes] = fs.open(path, "rb")
    return file
