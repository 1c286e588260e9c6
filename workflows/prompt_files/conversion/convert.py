"""Converts a prompt file of another format to Parquet, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import one_line
from workflows.job import PromptReading
from workflows.prompt_files.conversion.arrow_rows import ArrowRows
from workflows.prompt_files.conversion.csv_rows import CsvRows
from workflows.prompt_files.conversion.json_rows import JsonRows
from workflows.prompt_files.conversion.lines import numbered_lines
from workflows.prompt_files.conversion.text_rows import TextRows
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.formats import ARROW, CSV, JSONL, format_of
from workflows.storage.errors import storage_errors

NUM_SKIPPED = b"janus-batch.num_skipped"  # key in the metadata of a converted file: how many empty lines are left out


class Rows(Protocol):
    """The rows of a file: the types of its columns, and the rows in batches of this schema."""

    num_skipped: int

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self) -> Iterator[pa.RecordBatch]: ...


def convert(
    fs: fsspec.AbstractFileSystem,
    path: str,
    url: str,
    target: str,
    reading: PromptReading,
    text_columns: Sequence[str],
) -> None:
    """Write the rows of a file, in their order, to the local Parquet file `target`.

    Reads CSV and JSON lines twice: once for the types of the columns, and once for the rows. Raises PromptsError with
    the line at fault, DamagedFileError, and StorageError.
    """
    rows = _rows_of(fs, path, url, reading, text_columns)
    try:
        with pq.ParquetWriter(target, rows.schema, compression="zstd") as writer:
            for batch in rows.batches():
                writer.write_batch(batch)
            writer.add_key_value_metadata({NUM_SKIPPED: str(rows.num_skipped)})
    except pa.ArrowNotImplementedError as error:
        raise PromptsError(f"prompts: {url} cannot be converted to Parquet: {one_line(str(error))}") from error


def _rows_of(
    fs: fsspec.AbstractFileSystem, path: str, url: str, reading: PromptReading, text_columns: Sequence[str]
) -> Rows:
    found = format_of(path)
    lines = partial(numbered_lines, fs, path, url, found.compression)
    if found.name == CSV:
        delimiter = reading.csv_delimiter or ("\t" if found.ending == ".tsv" else None)
        return CsvRows(url, lines, delimiter=delimiter, has_header=reading.csv_header, text_columns=text_columns)
    if found.name == JSONL:
        return JsonRows(url, lines)
    if found.name == ARROW:
        return ArrowRows(url, partial(_opened, fs, path, url))
    return TextRows(lines)


@contextmanager
def _opened(fs: fsspec.AbstractFileSystem, path: str, url: str) -> Iterator[IO[bytes]]:
    with storage_errors(url), fs.open(path, "rb") as file:
        yield file
