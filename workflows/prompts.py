"""The prompt files of a job: find them, check their columns from the footers, and read their rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.job import PromptReading
from workflows.prompt_files.columns import COLUMN_TYPES, carried_columns
from workflows.prompt_files.conversion.convert import NUM_SKIPPED
from workflows.prompt_files.conversion.find import converted_files
from workflows.prompt_files.file import PromptFile, PromptsError, prompt_errors
from workflows.prompt_files.formats import PARQUET, format_of
from workflows.prompt_files.found import (
    Found,
    checked_columns,
    describe,
    hive_columns,
    read_columns,
)
from workflows.prompt_files.kept import KeptFiles
from workflows.prompt_files.listing import matching_files, no_match
from workflows.prompt_files.read import read_range, read_rows_at
from workflows.prompt_files.selection.duplicates import count_duplicates
from workflows.prompt_files.selection.matching import CHUNK_ROWS
from workflows.prompt_files.selection.repeated_ids import MAX_IDS, Place, rows_with_repeated_ids
from workflows.prompt_files.selection.select_rows import select_rows
from workflows.prompt_files.selection.stream import Rows
from workflows.prompt_files.view import job_view
from workflows.storage.errors import storage_errors
from workflows.storage.store import open_url

__all__ = [
    "COLUMN_TYPES",
    "MAX_IDS",
    "Place",
    "PromptFile",
    "PromptsError",
    "find_prompt_files",
    "keep_prompt_files",
    "num_duplicates",
    "read_rows",
    "row_numbers",
    "rows_with_same_ids",
]

MAX_ROWS_TO_COMPARE = 2_000_000  # for `num_duplicates`: a few seconds
NUM_FOOTER_READERS = 16  # threads: on object storage each footer takes one or two round trips


def find_prompt_files(
    prompts: str,
    storage: dict[str, Any],
    *,
    ignored_columns: Collection[str] = (),
    reading: PromptReading | None = None,
    output: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[PromptFile]:
    """The prompt files that `prompts` (a file, a glob or a folder) selects, in the order of their names.

    Of Parquet files, reads the footers only, and local files for their versions. Files of other formats are converted
    to Parquet files on this machine, unless the output has these already. `ignored_columns` may have any type. `say` is
    told what takes time. Raises PromptsError, DamagedFileError or StorageError naming the file at fault.
    """
    reading, kept = reading or PromptReading(), KeptFiles(output, storage, say)
    fs, root = open_url(prompts, storage, is_first_contact=True)
    with storage_errors(prompts):
        fs.invalidate_cache()
        folder, infos = matching_files(fs, root)
    if not infos:
        raise no_match(prompts)
    if format_of(infos[0]["name"]).name == PARQUET:
        with ThreadPoolExecutor(NUM_FOOTER_READERS) as readers:
            found = list(readers.map(lambda info: describe(fs, folder, info, reading), infos))
    else:
        found = converted_files(fs, folder, infos, reading, kept, storage, ignored_columns=ignored_columns)
    hive = hive_columns(found)
    carried = carried_columns([checked_columns(file, hive, set(ignored_columns)) for file in found])
    files = [_prompt_file(file, carried, read_columns(file, hive)) for file in found]
    return select_rows(files, reading, storage, kept)


def keep_prompt_files(files: Sequence[PromptFile], output: str, storage: dict[str, Any]) -> list[PromptFile]:
    """The same files, after what was made from them was moved into the output, where every node can read it."""
    kept = KeptFiles(output, storage)
    numbers = {file.selection.url for file in files if file.selection}
    kept_numbers = {url: kept.keep(url) for url in sorted(numbers)}
    return [
        replace(
            file,
            converted=kept.keep(file.converted),
            selection=file.selection and replace(file.selection, url=kept_numbers[file.selection.url]),
        )
        for file in files
    ]


def read_rows(file: PromptFile, start: int, stop: int, storage: dict[str, Any]) -> pa.Table:
    """All columns of rows `start` to `stop`; the carried ones have the types that they have in the manifest.

    Raises PromptsError if the file has changed, and DamagedFileError.
    """
    source = (file.rows_url, file.rows_version, json.dumps(storage, sort_keys=True))
    with prompt_errors(f"rows {start} to {stop} of {file.url}"):
        if file.selection is None:
            return pa.Table.from_batches([job_view(file, batch) for batch in read_range(*source, start, stop)])
        numbers = row_numbers(file, start, stop, storage)
        batches = read_rows_at(*source, np.asarray(numbers, np.int64))
        return pa.Table.from_batches([job_view(file, batch, positions) for batch, positions in batches])


def row_numbers(file: PromptFile, start: int, stop: int, storage: dict[str, Any]) -> Sequence[int]:
    """The numbers, in the prompt file, of rows `start` to `stop` of those to render."""
    if file.selection is None:
        return range(start, stop)
    offset = file.selection.start
    options = json.dumps(storage, sort_keys=True)
    numbers: list[int] = []
    for batch in read_range(file.selection.url, "", options, offset + start, offset + stop):
        numbers += batch["row"].to_pylist()
    return numbers


def num_duplicates(files: Sequence[PromptFile], storage: dict[str, Any]) -> int | None:
    """How many of the rows to render ask for the same images as an earlier one; None if there are too many to compare.

    Reads the prompts and settings of all rows.
    """
    if sum(file.num_rows for file in files) > MAX_ROWS_TO_COMPARE:
        return None
    rows = (
        Rows(file=index, numbers=numbers) for index, file in enumerate(files) for numbers in _numbers(file, storage)
    )
    return count_duplicates(rows, files, storage)


def rows_with_same_ids(files: Sequence[PromptFile], storage: dict[str, Any]) -> Iterator[tuple[str, Place]]:
    """The rows of which another one to render has the same id, with the id; see `rows_with_repeated_ids`."""
    return rows_with_repeated_ids(files, lambda file: _numbers(file, storage), storage)


def _numbers(file: PromptFile, storage: dict[str, Any]) -> Iterator[np.ndarray]:
    """The numbers of the rows to render, in chunks."""
    for start in range(0, file.num_rows, CHUNK_ROWS):
        yield np.asarray(row_numbers(file, start, min(start + CHUNK_ROWS, file.num_rows), storage))


def _prompt_file(file: Found, carried: pa.Schema, read: pa.Schema) -> PromptFile:
    return PromptFile(
        url=file.url,
        name=file.name,
        version=file.version,
        num_bytes=file.num_bytes,
        num_rows=file.footer.num_rows,
        carried=carried,
        read=read,
        hive_values=file.hive_values,
        row_bytes=file.footer.row_bytes,
        renamed=file.renamed,
        reads_images=file.reads_images,
        converted=file.converted,
        is_cut=file.is_cut,
        num_skipped=int(file.footer.metadata.get(NUM_SKIPPED, 0)) if file.converted else 0,
    )
