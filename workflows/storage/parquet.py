"""Readers of Parquet files that leave no Python object in Arrow's threads. All rows are read here.

Arrow decodes columns on threads of its own, and such a thread may be the last to let go of the file. If the file
belongs to Python, the thread then asks for the interpreter's lock, and a process that is about to exit aborts with
code 134 ("terminate called without an active exception").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import one_line
from workflows.storage.foreign import HEAD_BYTES, foreign_kind


class ForeignFileError(ValueError):
    """A file is no Parquet file that can be read. The text says what it is."""


def open_parquet(data: bytes) -> pq.ParquetFile:
    """A Parquet file in memory that Arrow owns. Each page is checked when it is read.

    Raises ForeignFileError for what is no Parquet file, and ArrowInvalid.
    """
    owned = pa.allocate_buffer(len(data))
    pa.FixedSizeBufferWriter(owned).write(data)
    with _foreign_files(data):
        return pq.ParquetFile(pa.BufferReader(owned), page_checksum_verification=True)


def read_footer(file: IO[bytes]) -> pq.FileMetaData:
    """The footer of an open file. Raises ForeignFileError for what is no Parquet file, and ArrowInvalid."""
    with _foreign_files(file.read(HEAD_BYTES)):
        return pq.read_metadata(file)


@contextmanager
def _foreign_files(head: bytes) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if kind := foreign_kind(head[:HEAD_BYTES]):
            raise ForeignFileError(kind) from error
        raise


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file: all columns, or those named. Raises ArrowInvalid unless it has each of them once."""
    file = open_parquet(data)
    check_names(file.schema_arrow, file.schema_arrow.names if columns is None else columns)
    return file.read(columns)


def check_names(schema: pa.Schema, names: Sequence[str]) -> None:
    """Raise ArrowInvalid unless the schema has each of these columns once."""
    counts = Counter(schema.names)
    for name in names:
        if counts[name] != 1:
            raise pa.ArrowInvalid(f"it has {counts[name]} columns `{name}`, expected one")


def typed_column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """A column in the type of `field`. Raises ArrowInvalid for another type, text that is not UTF-8, and nulls."""
    column = table[field.name]
    try:
        typed = column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        kind = one_line(str(column.type))
        raise pa.ArrowInvalid(f"column `{field.name}` must be {field.type}, got {kind}: {error}") from error
    typed.validate(full=True)
    if typed.null_count and not field.nullable:
        raise pa.ArrowInvalid(
            f"column `{field.name}` must have a value in every row, {typed.null_count} of {len(typed)} rows have none"
        )
    return typed


def read_batches(
    file: IO[bytes], footer: pq.FileMetaData, group: int, batch_bytes: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """One row group of an open file, in batches of about `batch_bytes` once decoded, and at least one row each.

    All columns, or those named. Decoded on the caller's thread, a batch at a time. Raises ArrowInvalid.
    """
    parquet = pq.ParquetFile(file, metadata=footer)  # a footer has all row groups, and is not read for each of them
    metadata = footer.row_group(group)
    row_bytes = max(metadata.total_byte_size, 1) / max(metadata.num_rows, 1)
    batch_rows = max(1, min(metadata.num_rows, int(batch_bytes / row_bytes)))
    return iter(parquet.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False))
