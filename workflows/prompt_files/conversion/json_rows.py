"""JSON lines: one object a line. A column has one type in the whole file."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from actors.errors import one_line
from workflows.prompt_files.conversion.json_types import (
    EMPTY,
    Kind,
    MixedTypesError,
    kind_of,
    merge,
    num_keys,
    typed,
    values_by_key,
)
from workflows.prompt_files.conversion.lines import TextFile, chunked
from workflows.prompt_files.file import PromptsError

Line = tuple[int, int, dict[str, Any]]  # its number, its length in characters, and the object
MAX_KEYS = 1000  # at any depth
ADVICE = "write each object on a line of its own (jq -c '.[]', or lines=True in pandas)"


class _NumberError(ValueError):
    pass


def _number(text: str) -> float:
    """A number with a fraction or an exponent. Raises _NumberError where 1e999 would become infinite or 1e-999 zero."""
    value = float(text)
    if math.isinf(value) or (value == 0 and re.match(r"-?[0.]*[1-9]", text)):
        raise _NumberError(one_line(text))
    return value


class _DoubledKeyError(ValueError):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises _DoubledKeyError where Python would silently keep the last value of a key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubledKeyError(one_line(next(name for name in names if names.count(name) > 1)))
    return found


_DECODER = json.JSONDecoder(parse_float=_number, object_pairs_hook=_without_doubles)


class JsonRows:
    """The rows of a file of JSON lines, or the first `num_rows`. `num_skipped` counts the empty lines once all batches
    are read.

    A file without rows has the column `only_column`.
    """

    def __init__(self, url: str, text: TextFile, *, num_rows: int | None, only_column: str) -> None:
        self._url, self._text, self._num_rows, self._only_column = url, text, num_rows, only_column
        self.num_skipped = 0

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns with their types, which takes a pass over the rows. Raises PromptsError."""
        kinds: dict[str, Kind] = {}
        with self._text.lines() as lines:
            for chunk in chunked(self._objects(lines), lambda line: line[1]):
                for name, values in values_by_key(row for _, _, row in chunk).items():
                    kinds[name] = self._narrowed(kinds.get(name, EMPTY), name, values, chunk)
                if num_keys(kinds.values()) > MAX_KEYS:
                    number, _, row = chunk[-1]
                    raise PromptsError(
                        f"prompts: up to line {number:,} of {self._url}, objects have more than {MAX_KEYS:,} different "
                        f"keys, such as `{one_line(next(reversed(row), ''))}`; each becomes a column of all rows. "
                        "Write keys that vary from row to row as values"
                    )
        return pa.schema([(name, kind.arrow()) for name, kind in kinds.items()] or [(self._only_column, pa.string())])

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema, self.num_skipped = self.schema, 0
        with self._text.lines() as lines:
            for chunk in chunked(self._objects(lines), lambda line: line[1]):
                arrays = [typed([row.get(field.name) for _, _, row in chunk], field.type) for field in schema]
                yield pa.record_batch(arrays, schema=schema)

    def _objects(self, lines: Iterator[tuple[int, str]]) -> Iterator[Line]:
        return itertools.islice(self._all_objects(lines), self._num_rows)

    def _all_objects(self, lines: Iterator[tuple[int, str]]) -> Iterator[Line]:
        for number, line in lines:
            if not line.strip():
                self.num_skipped += 1
                continue
            try:
                row = _DECODER.decode(line)
                if "\\ud" in line.lower():  # half of a pair of surrogates is no character
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise PromptsError(f"prompts: {self._fault(number, line, error)}") from error
            if not isinstance(row, dict):
                advice = f"; {ADVICE}" if isinstance(row, list) else ""
                raise PromptsError(
                    f"prompts: line {number:,} of {self._url} must be a JSON object, got "
                    f"{one_line(line.strip())}{advice}"
                )
            yield number, len(line), row

    def _fault(self, number: int, line: str, error: Exception) -> str:
        if isinstance(error, json.JSONDecodeError) and number == 1 and error.pos >= len(line.rstrip()):
            return f"{self._url} is one JSON value over several lines; {ADVICE}"  # which continues on the next line
        if isinstance(error, _NumberError):
            return f"line {number:,} of {self._url} has a number that 64 bits do not hold, {error}"
        if isinstance(error, _DoubledKeyError):
            return f"line {number:,} of {self._url} has the key `{error}` twice"
        if isinstance(error, UnicodeEncodeError):
            return f"line {number:,} of {self._url} has text that is not valid Unicode ({error.object[error.start]!r})"
        return f"line {number:,} of {self._url} is no JSON: {one_line(str(error))}"

    def _narrowed(self, known: Kind, name: str, values: Sequence[Any], chunk: Sequence[Line]) -> Kind:
        """The type of a column after the values that a chunk has of it. Raises PromptsError that names the first line
        with another type.
        """
        try:
            return merge(known, kind_of(values, name), name)
        except MixedTypesError:
            for number, _, row in chunk:
                try:
                    known = merge(known, kind_of([row.get(name)], name), name)
                except MixedTypesError as error:
                    raise PromptsError(f"prompts: line {number:,} of {self._url}: {error}") from error
            raise
