"""Converts a prompt file of another format to Parquet, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import one_line, reason_line
from workflows.job import PromptReading
from workflows.prompt_files.conversion.arrow_rows import ArrowRows
from workflows.prompt_files.conversion.csv_rows import CsvRows
from workflows.prompt_files.conversion.json_rows import JsonRows
from workflows.prompt_files.conversion.lines import TextFile
from workflows.prompt_files.conversion.text_rows import TextRows
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.formats import ARROW, CSV, JSONL, format_of
from workflows.storage.errors import storage_errors

NUM_SKIPPED = b"janus-batch.num_skipped"  # key in the metadata of a converted file: how many empty lines are left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A prompt file to convert, and how it is read.

    `num_rows`: the first rows only; None for all. `text_columns`: columns that are text whatever they hold, by their
    names in the file; the first one is the column that every row must have. `number_columns`: columns that must hold
    numbers, by their names in the file, with the rule in words.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    url: str
    reading: PromptReading
    num_rows: int | None
    text_columns: list[str]
    number_columns: dict[str, str]


class Rows(Protocol):
    """The rows of a file: the types of its columns, and the rows in batches of this schema."""

    num_skipped: int

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self) -> Iterator[pa.RecordBatch]: ...


def convert(source: Source, target: str) -> int:
    """Write the rows of a file, in their order, to the local Parquet file `target`. Returns how many bytes of the file
    decided which rows these are.

    Reads CSV and JSON lines twice: once for the types of the columns, and once for the rows. Raises PromptsError with
    the line at fault, DamagedFileError, and StorageError.
    """
    form = format_of(source.path)
    text = TextFile(source.fs, source.path, source.url, form.compression)
    rows = _arrow_rows(source) if form.name == ARROW else _text_rows(source, text)
    for field in rows.schema:
        with _carried_errors(source.url, field.name):  # in memory, where no disk is full
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
    with pq.ParquetWriter(target, rows.schema, compression="zstd") as writer:
        for batch in rows.batches():
            try:
                writer.write_batch(batch)
            except pa.ArrowInvalid:  # a value, such as a moment in seconds that overflows milliseconds
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    with _carried_errors(source.url, name):
                        pq.write_table(pa.table([column], [name]), pa.BufferOutputStream())
                raise
        writer.add_key_value_metadata({NUM_SKIPPED: str(rows.num_skipped)})
    if form.name == ARROW:  # may have a table of contents at its end
        return int(source.fs.size(source.path))
    return text.num_bytes_read


@contextmanager
def _carried_errors(url: str, name: str) -> Iterator[None]:
    """Raise PromptsError for a column whose type or values Parquet cannot hold."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = reason_line(error)
        raise PromptsError(f"prompts: column `{one_line(name)}` of {url} cannot be carried: {reason}") from error


def _text_rows(source: Source, text: TextFile) -> Rows:
    form, reading = format_of(source.path), source.reading
    if form.name == CSV:
        delimiter = reading.csv_delimiter or ("\t" if form.ending == ".tsv" else None)
        return CsvRows(
            source.url,
            text,
            num_rows=source.num_rows,
            delimiter=delimiter,
            has_header=reading.csv_header,
            text_columns=source.text_columns,
            number_columns=source.number_columns,
        )
    if form.name == JSONL:
        return JsonRows(source.url, text, num_rows=source.num_rows, only_column=source.text_columns[0])
    return TextRows(text, num_rows=source.num_rows)


def _arrow_rows(source: Source) -> Rows:
    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with storage_errors(source.url), source.fs.open(source.path, "rb") as file:
            yield file

    return ArrowRows(source.url, opened, num_rows=source.num_rows)
