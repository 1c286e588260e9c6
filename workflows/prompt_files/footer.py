"""The footer of a Parquet file: its rows, columns and sizes, or the name of what a file is that has none."""

from __future__ import annotations

import io
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from workflows.job import PromptReading
from workflows.prompt_files.column_types import Extent
from workflows.prompt_files.columns import COLUMN_TYPES, TEXT_COLUMNS
from workflows.prompt_files.file import PromptsError, prompt_errors
from workflows.prompt_files.thrift import read_struct
from workflows.storage.damage import DamagedFileError
from workflows.storage.foreign import HEAD_BYTES, foreign_kind

TAIL_BYTES = 64 * 1024  # most footers fit, so that one request reads them
MAX_TEXT_BYTES = 16 * 2**20  # of a column that the job reads, in one row group ...
MAX_TEXT_BYTES_OF_A_ROW = 64 * 1024  # ... or on average, if the row group has many rows

# Field ids of the Thrift structs in https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
_ROW_GROUPS, _ENCRYPTION = 4, 8  # FileMetaData
_CHUNKS, _NUM_ROWS = 1, 3  # RowGroup
_METADATA, _CRYPTO = 3, 8  # ColumnChunk
_PATH, _CODEC, _UNCOMPRESSED, _STATISTICS = 3, 4, 6, 12  # ColumnMetaData
_NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 3, 5, 6  # Statistics
CODECS = ("uncompressed", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw")


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """What the footer says. `extents` has the 64-bit columns with statistics in every row group."""

    num_rows: int
    schema: pa.Schema
    extents: dict[str, Extent]
    row_bytes: int
    metadata: dict[bytes, bytes]


def read_footer(url: str, file: IO[bytes], size: int, reading: PromptReading) -> Footer:
    """Read and check a footer, for a job that reads its prompt files in this way.

    Raises PromptsError for what is no Parquet file, or one that pyarrow cannot read, and DamagedFileError.
    """
    if not size:
        raise PromptsError(f"prompts: {url} is empty (0 bytes); a Parquet file without rows has a footer")
    try:
        with prompt_errors(url):
            tail = _read_tail(file, size)
            metadata = pq.read_metadata(io.BytesIO(tail))
            schema = metadata.schema.to_arrow_schema()
            thrift = _read_thrift(tail)
    except DamagedFileError as error:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if found := foreign_kind(head) or (None if head.startswith(b"PAR1") else "data of another format"):
            raise PromptsError(
                f"prompts: {url} is no Parquet file, it is {found}; the ending of a name says another format, such as "
                ".csv, .jsonl or .txt"
            ) from error
        raise
    groups = _groups_of(url, thrift)
    group_edges(url, metadata)  # checks them
    _check_text(url, groups, reading.names_in_files(TEXT_COLUMNS).values())
    read = {*reading.names_in_files(COLUMN_TYPES).values()}
    return Footer(
        num_rows=metadata.num_rows,
        schema=schema,
        extents=_extents(schema, groups),
        row_bytes=_row_bytes(groups, read),
        metadata=metadata.metadata or {},
    )


def group_edges(url: str, metadata: pq.FileMetaData) -> np.ndarray:
    """The edges of the G row groups: group g has the rows from `edges[g]` to `edges[g + 1]`; int64 [G + 1].

    Raises DamagedFileError for a footer that contradicts itself.
    """
    num_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(num_rows, default=0) < 0 or sum(num_rows) != metadata.num_rows:
        raise DamagedFileError(
            f"prompts: {url} cannot be read: the file is damaged (its footer counts {metadata.num_rows:,} rows, and "
            f"{sum(num_rows):,} in its row groups)"
        )
    return np.cumsum([0, *num_rows], dtype=np.int64)


def _read_tail(file: IO[bytes], size: int) -> bytes:
    """The end of the file with the whole footer, or more. Raises ArrowInvalid."""
    file.seek(max(size - TAIL_BYTES, 0))
    tail = file.read(TAIL_BYTES)
    footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and len(tail) < footer_bytes <= size:
        file.seek(size - footer_bytes)
        tail = file.read(footer_bytes)
    if tail[-4:] == b"PAR1" and footer_bytes > size - 4:
        raise pa.ArrowInvalid(f"its footer would have {footer_bytes:,} bytes, the file has {size:,}")
    return tail


def _read_thrift(tail: bytes) -> dict[int, Any]:
    footer_bytes = int.from_bytes(tail[-8:-4], "little")
    try:
        return read_struct(tail[-8 - footer_bytes : -8])
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """A row group: its rows, and the metadata of its column chunks (Thrift fields) by the path of the column."""

    num_rows: int
    chunks: dict[str, dict[int, Any]]


def _groups_of(url: str, thrift: dict[int, Any]) -> list[_Group]:
    """The row groups. Raises PromptsError if a chunk is encrypted or compressed with an unknown codec."""
    if _ENCRYPTION in thrift:
        raise PromptsError(f"prompts: columns of {url} are encrypted; decrypt the file first")
    groups = []
    try:
        for group in thrift.get(_ROW_GROUPS, []):
            chunks = {}
            for chunk in group[_CHUNKS]:
                if _CRYPTO in chunk or _METADATA not in chunk:
                    raise PromptsError(
                        f"prompts: columns of {url} are encrypted or in other files; write one plain file"
                    )
                metadata = chunk[_METADATA]
                path = b".".join(metadata[_PATH]).decode()
                _check_codec(url, path, metadata[_CODEC])
                chunks[path] = metadata
            groups.append(_Group(num_rows=group[_NUM_ROWS], chunks=chunks))
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise DamagedFileError(
            f"prompts: {url} cannot be read: the file is damaged (its row groups are incomplete)"
        ) from error
    return groups


def _check_codec(url: str, path: str, codec: int) -> None:
    name = CODECS[codec] if 0 <= codec < len(CODECS) else f"number {codec}"
    is_known = name == "uncompressed" or (
        name in CODECS and name != "lzo" and pa.Codec.is_available(name.removesuffix("_raw"))
    )
    if not is_known:
        raise PromptsError(
            f"prompts: column `{path}` of {url} is compressed with {name}, which pyarrow cannot read; write the file "
            "with zstd or snappy"
        )


def _check_text(url: str, groups: list[_Group], names: Iterable[str]) -> None:
    """Raise PromptsError if the text that the job reads is too large to be prompts, however small the file is."""
    for number, group in enumerate(groups):
        for name in names:
            num_bytes = group.chunks.get(name, {}).get(_UNCOMPRESSED, 0)
            if num_bytes > max(MAX_TEXT_BYTES, MAX_TEXT_BYTES_OF_A_ROW * group.num_rows):
                raise PromptsError(
                    f"prompts: column `{name}` of {url} has {num_bytes:,} bytes in the {group.num_rows:,} rows of row "
                    f"group {number}; a row may have {MAX_TEXT_BYTES_OF_A_ROW:,} bytes of it on average"
                )


def _extents(schema: pa.Schema, groups: list[_Group]) -> dict[str, Extent]:
    """The extents of 64-bit columns whose statistics are complete."""
    extents = {}
    for field in schema:
        kind = field.type
        is_64_bit = types.is_int64(kind) or types.is_uint64(kind) or types.is_timestamp(kind) or types.is_duration(kind)
        if not is_64_bit:
            continue
        statistics = [(group.num_rows, group.chunks.get(field.name, {}).get(_STATISTICS, {})) for group in groups]
        raw = [
            (found.get(_MIN_VALUE, b""), found.get(_MAX_VALUE, b""))
            for num_rows, found in statistics
            if found.get(_NULL_COUNT) != num_rows
        ]
        if all(len(value) == 8 for pair in raw for value in pair):
            values = [int.from_bytes(v, "little", signed=not types.is_uint64(kind)) for pair in raw for v in pair]
            extents[field.name] = Extent(low=min(values, default=0), high=max(values, default=0))
    return extents


def _row_bytes(groups: list[_Group], read: Container[str]) -> int:
    """Bytes of the carried columns of a row, uncompressed, in the row group with the largest rows."""
    sizes = [
        sum(chunk.get(_UNCOMPRESSED, 0) for path, chunk in group.chunks.items() if path not in read) // group.num_rows
        for group in groups
        if group.num_rows > 0
    ]
    return max(sizes, default=0)
