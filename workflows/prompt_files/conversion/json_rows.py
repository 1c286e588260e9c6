"""JSON lines: one object a line. A column has one type in the whole file."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from actors.errors import one_line
from workflows.prompt_files.conversion.json_types import EMPTY, Kind, MixedTypesError, kind_of, merge, typed
from workflows.prompt_files.conversion.lines import Lines, chunked
from workflows.prompt_files.file import PromptsError

Line = tuple[int, int, dict[str, Any]]  # its number, its length in characters, and the object


class JsonRows:
    """The rows of a file of JSON lines. `num_skipped` counts the empty lines once all batches are read."""

    def __init__(self, url: str, lines: Lines) -> None:
        self._url, self._lines = url, lines
        self.num_skipped = 0

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns with their types, which takes a pass over the whole file. Raises PromptsError."""
        kinds: dict[str, Kind] = {}
        with self._lines() as lines:
            for chunk in chunked(self._objects(lines), lambda line: line[1]):
                for name in dict.fromkeys(key for _, _, row in chunk for key in row):
                    kinds[name] = self._narrowed(kinds.get(name, EMPTY), name, chunk)
        return pa.schema([(name, kind.arrow()) for name, kind in kinds.items()])

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema, self.num_skipped = self.schema, 0
        with self._lines() as lines:
            for chunk in chunked(self._objects(lines), lambda line: line[1]):
                arrays = [typed([row.get(field.name) for _, _, row in chunk], field.type) for field in schema]
                yield pa.record_batch(arrays, schema=schema)

    def _objects(self, lines: Iterator[tuple[int, str]]) -> Iterator[Line]:
        for number, line in lines:
            if not line.strip():
                self.num_skipped += 1
                continue
            try:
                row = json.loads(line)
                if "\\ud" in line.lower():  # half of a pair of surrogates is no character
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise PromptsError(f"prompts: {self._fault(number, line, error)}") from error
            if not isinstance(row, dict):
                raise PromptsError(
                    f"prompts: line {number:,} of {self._url} must be a JSON object, got {one_line(line.strip())}"
                )
            yield number, len(line), row

    def _fault(self, number: int, line: str, error: Exception) -> str:
        if isinstance(error, json.JSONDecodeError) and number == 1 and error.pos >= len(line.rstrip()):
            return (  # the value continues on the next line
                f"{self._url} is one JSON value over several lines; write each object on a line of its own (jq -c "
                "'.[]', or lines=True in pandas)"
            )
        if isinstance(error, UnicodeEncodeError):
            return f"line {number:,} of {self._url} has text that is not valid Unicode ({error.object[error.start]!r})"
        return f"line {number:,} of {self._url} is no JSON: {one_line(str(error))}"

    def _narrowed(self, known: Kind, name: str, chunk: Sequence[Line]) -> Kind:
        """The type of a column after some more rows. Raises PromptsError that names the first line with another one."""
        try:
            return merge(known, kind_of([row.get(name) for _, _, row in chunk], name), name)
        except MixedTypesError:
            for number, _, row in chunk:
                try:
                    known = merge(known, kind_of([row.get(name)], name), name)
                except MixedTypesError as error:
                    raise PromptsError(
                        f"prompts: line {number:,} of {self._url}: {error}; a column has one type in all rows"
                    ) from error
            raise
