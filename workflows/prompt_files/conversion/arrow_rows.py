"""Arrow files: the streams that `datasets` saves to disk, and Feather files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

import pyarrow as pa
from pyarrow import ipc

from actors.errors import one_line, reason_line
from workflows.prompt_files.column_types import TypeConflictError, plain_type
from workflows.prompt_files.columns import MAX_COLUMNS, too_many_columns
from workflows.prompt_files.conform import conform
from workflows.prompt_files.conversion.lines import LINE_BYTES, allowed_bytes, chunked
from workflows.prompt_files.file import PromptsError, prompt_errors
from workflows.storage.damage import DamagedFileError
from workflows.storage.foreign import HEAD_BYTES, foreign_kind

_FILE_MAGIC, _STREAM_MAGIC = b"ARROW1", b"\xff\xff\xff\xff"
BATCH_BYTES = 8 * 2**20


class ArrowRows:
    """The rows of an Arrow file, or the first `num_rows`."""

    num_skipped = 0

    def __init__(
        self, url: str, opened: Callable[[], AbstractContextManager[IO[bytes]]], *, num_rows: int | None
    ) -> None:
        self._url, self._opened, self._num_rows = url, opened, num_rows
        self._size = 0

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns in plain types. Raises PromptsError and DamagedFileError."""
        with self._read() as (schema, _):
            if len(schema) > MAX_COLUMNS:
                raise too_many_columns(self._url, len(schema))
            return pa.schema([(field.name, self._plain_type(field)) for field in schema])

    def _plain_type(self, field: pa.Field) -> pa.DataType:
        try:
            return plain_type(field.type)
        except TypeConflictError as error:
            raise PromptsError(
                f"prompts: column `{one_line(field.name)}` of {self._url} cannot be carried: {reason_line(error)}"
            ) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        with self._read() as (_, batches):
            for parts in chunked(self._parts(batches), _num_bytes):
                chunks = [
                    pa.chunked_array([conform(column, field.type) for column in columns], field.type)
                    for field, columns in zip(schema, zip(*(part.columns for part in parts), strict=True), strict=True)
                ]
                yield from pa.table(chunks, schema=schema).combine_chunks().to_batches()

    def _parts(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Parts of the batches that are small enough for memory, up to the last row to read."""
        left, counted = self._num_rows, 0
        while left != 0 and (batch := next(batches, None)) is not None:
            counted += max(batch.nbytes, len(batch) * LINE_BYTES)
            if counted > allowed_bytes(self._size):
                raise PromptsError(
                    f"prompts: the {self._size:,} bytes of {self._url} decompress to {len(batch):,} rows and more, "
                    "which is hardly a list of prompts; if it is one, write the file without compression"
                )
            batch = batch.slice(0, left)
            left = None if left is None else left - len(batch)
            rows = max(1, int(len(batch) * BATCH_BYTES / max(batch.nbytes, 1)))
            for start in range(0, len(batch), rows):
                yield batch.slice(start, rows)

    @contextmanager
    def _read(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with self._opened() as file, self._errors(head := file.read(HEAD_BYTES)):
            self._size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if head.startswith(_FILE_MAGIC):
                reader = ipc.open_file(file)
                yield reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                stream = ipc.open_stream(file)
                yield stream.schema, iter(stream)

    @contextmanager
    def _errors(self, head: bytes) -> Iterator[None]:
        """Turn pyarrow's errors into PromptsError or DamagedFileError; `head` is the beginning of the file."""
        try:
            with prompt_errors(self._url):
                yield
        except DamagedFileError as error:
            if head.startswith((_FILE_MAGIC, _STREAM_MAGIC)):
                raise
            raise PromptsError(f"prompts: {self._url} is no Arrow file, it is {_kind_of(head)}") from error


def _kind_of(head: bytes) -> str:
    """What a file is that begins like no Arrow file."""
    if head.startswith(b"PAR1"):
        return "a Parquet file; rename it to .parquet"
    if head.startswith(b"FEA1"):
        return "Feather version 1; write it with version 2"
    return foreign_kind(head) or "data of another format"


def _num_bytes(batch: pa.RecordBatch) -> int:
    return int(batch.nbytes)
