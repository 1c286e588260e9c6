"""CSV and TSV: records of text, whose columns get the narrowest type that holds all values of the file."""

from __future__ import annotations

import csv
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from actors.errors import one_line
from workflows.prompt_files.columns import MAX_COLUMNS, too_many_columns, way_out
from workflows.prompt_files.conversion.csv_types import TypeGuess, typed
from workflows.prompt_files.conversion.lines import MAX_LINE_BYTES, TextFile, chunked
from workflows.prompt_files.file import PromptsError

DELIMITERS = ",;\t|"
_EXCEL_HINT = re.compile(r"sep=(.)\s*$")  # a first line that Excel writes and reads
_IN_QUOTES = re.compile(r'"[^"]*"')

Record = tuple[int, list[str]]  # with the number of its first line


class CsvRows:
    """The rows of a CSV file, or the first `num_rows`. `num_skipped` counts the empty lines once all batches are read.

    `delimiter` None: the one of , ; tab | that the first line has most of. Without a header, columns are column_1,
    column_2 and so on; a single one is `prompt`. Columns in `text_columns` are text whatever they hold, and those in
    `number_columns` must be the numbers that it names in words.
    """

    def __init__(
        self,
        url: str,
        text: TextFile,
        *,
        num_rows: int | None,
        delimiter: str | None,
        has_header: bool,
        text_columns: Sequence[str],
        number_columns: Mapping[str, str],
    ) -> None:
        self._url, self._text, self._num_rows = url, text, num_rows
        self._delimiter, self._has_header, self._text_columns = delimiter, has_header, set(text_columns)
        self._number_columns = number_columns
        self.num_skipped = 0

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns with their types, which takes a pass over the rows. Raises PromptsError."""
        guesses: list[TypeGuess] | None = None
        names: list[str] = []
        with self._text.lines() as lines:
            names, records = self._open(lines)
            guesses = [
                TypeGuess(is_text=name in self._text_columns, is_number=name in self._number_columns) for name in names
            ]
            for chunk in chunked(records, _num_characters):
                for name, guess, values in zip(names, guesses, _columns(chunk), strict=True):
                    if (position := guess.narrow(values)) is not None:
                        raise PromptsError(
                            f"prompts: line {chunk[position][0]:,} of {self._url}: column `{one_line(name)}` must hold "
                            f"{self._number_columns[name]}, got {one_line(values[position].as_py())}{way_out(name)}"
                        )
        return pa.schema([(name, guess.kind) for name, guess in zip(names, guesses, strict=True)])

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema, self.num_skipped = self.schema, 0
        with self._text.lines() as lines:
            _, records = self._open(lines)
            for chunk in chunked(records, _num_characters):
                arrays = [typed(values, field.type) for field, values in zip(schema, _columns(chunk), strict=True)]
                yield pa.record_batch(arrays, schema=schema)

    def _open(self, lines: Iterator[tuple[int, str]]) -> tuple[list[str], Iterator[Record]]:
        """The names of the columns, and the records to read. Raises PromptsError."""
        number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
        if not number:
            raise PromptsError(f"prompts: {self._url} is empty; the first line of a CSV file names its columns")
        delimiter = self._delimiter
        if hint := _EXCEL_HINT.match(first):
            delimiter = delimiter or hint[1]
        else:
            lines = itertools.chain([(number, first)], lines)
        records = self._records(lines, delimiter or _delimiter_of(first))
        first_record = next(records, (0, [""]))
        width = len(first_record[1])
        if width > MAX_COLUMNS:
            raise too_many_columns(self._url, width)
        if self._has_header:
            names = self._header(first_record[1])
        else:
            names = [f"column_{position}" for position in range(1, width + 1)] if width > 1 else ["prompt"]
            records = itertools.chain([first_record], records)
        return names, itertools.islice(self._checked(records, width), self._num_rows)

    def _header(self, record: Sequence[str]) -> list[str]:
        """The names in the first record. One that is empty, as pandas writes for an index, becomes column_<number>."""
        names = [name.strip() or f"column_{position}" for position, name in enumerate(record, 1)]
        for name, count in Counter(names).items():
            if count > 1:
                raise PromptsError(f"prompts: {self._url} has {count} columns `{one_line(name)}`; names must be unique")
        return names

    def _records(self, lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Record]:
        csv.field_size_limit(MAX_LINE_BYTES)
        position = _Position()
        reader = csv.reader(position.follow(lines), delimiter=delimiter, strict=True)
        while True:
            start = position.line + 1
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise PromptsError(f"prompts: {self._fault(str(error), start, position.line)}") from error
            if record is None:
                return
            yield start, record

    def _checked(self, records: Iterator[Record], width: int) -> Iterator[Record]:
        """The records without empty ones. Raises PromptsError for one that has more or fewer fields than the first."""
        for number, record in records:
            if not any(map(str.strip, record)):
                self.num_skipped += 1
            elif len(record) == width:
                yield number, record
            else:
                fields = f"{width:,} {'field' if width == 1 else 'fields'}"
                raise PromptsError(
                    f"prompts: line {number:,} of {self._url} must have {fields}, as the first line, and has "
                    f'{len(record):,}; a field with a delimiter or a line break must be in "quotes"'
                )

    def _fault(self, error: str, start: int, line: int) -> str:
        if "unexpected end of data" in error or "field limit" in error:
            return f"a quote in the record on line {start:,} of {self._url} is not closed"
        if "new-line character" in error:
            error = "a carriage return (\\r) in a field must be in quotes"
        return f"line {line:,} of {self._url} is no CSV: {error}"


class _Position:
    """The number of the last line that the reader took."""

    def __init__(self) -> None:
        self.line = 0

    def follow(self, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
        for number, line in lines:
            self.line = number
            yield line


def _delimiter_of(line: str) -> str:
    counts = Counter(_IN_QUOTES.sub("", line))
    return max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def _num_characters(record: Record) -> int:
    return sum(map(len, record[1])) + len(record[1])


def _columns(chunk: Sequence[Record]) -> list[pa.Array]:
    """The columns of some records as text; empty fields are null."""
    return [
        pa.array([field or None for field in fields], pa.string())
        for fields in zip(*(record for _, record in chunk), strict=True)
    ]
