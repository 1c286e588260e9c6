"""A hash of what each row asks for: its prompt, its negative prompt, and the settings that it has of its own."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.prompt_files.column_types import is_text
from workflows.prompt_files.conform import valid_text
from workflows.prompt_files.file import PromptFile
from workflows.prompt_files.selection.stream import Rows, scan_rows

MAIN_COLUMNS = {"prompt", "image"}  # a row without its main column will be rejected


def with_hashes(
    rows: Iterator[Rows], files: Sequence[PromptFile], storage: dict[str, Any]
) -> Iterator[tuple[Rows, np.ndarray]]:
    """Chunks of the rows, which may be smaller ones, with the hashes of their rows, [N, 2] of uint64."""
    for index, chunks in itertools.groupby(rows, lambda chunk: chunk.file):
        file = files[index]
        names = [name for name in file.read.names if name != "id"]
        for numbers, columns in scan_rows(file, (chunk.numbers for chunk in chunks), names, storage):
            yield Rows(file=index, numbers=numbers), _hashes(columns, numbers, file.name)


def _hashes(columns: dict[str, pa.Array], numbers: np.ndarray, name: str) -> np.ndarray:
    """The hashes of some rows of the file `name`. A row that will be rejected has one of its own."""
    values_of = {column: _values(columns[column]) for column in sorted(columns)}
    digests = []
    for number, values in zip(numbers, zip(*values_of.values(), strict=True), strict=True):
        asked = {column: value for column, value in zip(values_of, values, strict=True) if value is not None}
        text = repr(asked) if asked.keys() & MAIN_COLUMNS else f"{name}/{number}"
        digests.append(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest())
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def _values(array: pa.Array) -> list[Any]:
    """The values of a column. A whole number is the same as a float, and text that is blank is none."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text(array.type):
        return [value if value and value.strip() else None for value in valid_text(array).to_pylist()]
    values: list[Any] = array.to_pylist()
    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        return [int(value) if value is not None and value % 1 == 0 else value for value in values]
    return values
