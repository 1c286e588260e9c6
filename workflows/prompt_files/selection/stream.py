"""Numbers of rows on their way through the steps of a selection, and the columns that decide."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.prompt_files.file import PromptFile, prompt_errors
from workflows.prompt_files.read import scan
from workflows.prompt_files.view import renamed, view_column


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Some rows of one prompt file: its index among the files, and their numbers, int64 and ascending.

    Chunks come in the order of the files and of their rows.
    """

    file: int
    numbers: np.ndarray


def scan_columns(
    file: PromptFile, names: Collection[str], storage: dict[str, Any]
) -> Iterator[tuple[int, dict[str, pa.Array]]]:
    """Batches of all rows from the first one on: the number of rows, and some columns by the job's names.

    A column that the file does not have is null.
    """
    written_names = {name: written for written, name in file.renamed}
    columns = [written_names.get(name, name) for name in names]
    with prompt_errors(file.url):
        for batch in scan(file.rows_url, file.rows_version, json.dumps(storage, sort_keys=True), columns):
            found = renamed(batch, file)
            yield len(batch), {name: view_column(file, found, name) for name in names}


def scan_rows(
    file: PromptFile, numbers: Iterable[np.ndarray], names: Collection[str], storage: dict[str, Any]
) -> Iterator[tuple[np.ndarray, dict[str, pa.Array]]]:
    """Columns of some rows, given chunks of their ascending numbers: numbers of a part of a chunk, and the values."""
    batches = scan_columns(file, names, storage)
    start, (length, batch) = 0, next(batches, (0, {}))
    for chunk in numbers:
        while len(chunk):
            while chunk[0] >= start + length:
                start += length
                length, batch = next(batches)
            inside = chunk[: np.searchsorted(chunk, start + length)]
            positions = pa.array(inside - start)
            yield inside, {name: array.take(positions) for name, array in batch.items()}
            chunk = chunk[len(inside) :]
