"""Prompt files: find them, check their columns from the footers, and read ranges of their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from workflows.prompt_files.columns import COLUMN_TYPES, carried_columns, hive_type
from workflows.prompt_files.conform import conform, without_view
from workflows.prompt_files.file import PromptFile, PromptsError, prompt_errors
from workflows.prompt_files.listing import checked_columns, describe, hive_columns, matching_files
from workflows.prompt_files.read import group_rows, read_group
from workflows.storage.errors import storage_errors
from workflows.storage.store import open_url

__all__ = ["COLUMN_TYPES", "PromptFile", "PromptsError", "find_prompt_files", "read_rows"]

NUM_FOOTER_READERS = 16  # threads: on object storage each footer takes one or two round trips


def find_prompt_files(
    prompts: str, storage: dict[str, Any], *, ignored_columns: Iterable[str] = ()
) -> list[PromptFile]:
    """The Parquet files that `prompts` (a file, a glob or a folder) selects, in the order of their names.

    Reads the footers only, and local files for their versions. `ignored_columns` may have any type. Raises
    PromptsError, DamagedFileError or StorageError naming the file at fault.
    """
    fs, root = open_url(prompts, storage, is_first_contact=True)
    with storage_errors(prompts):
        fs.invalidate_cache()
        folder, infos = matching_files(fs, root)
    if not infos:
        raise PromptsError(f"prompts: no Parquet files match {prompts} (a .parquet file, a glob, or a folder of them)")
    with ThreadPoolExecutor(NUM_FOOTER_READERS) as readers:
        found = list(readers.map(lambda info: describe(fs, folder, info), infos))
    hive = hive_columns(found)
    carried = carried_columns([checked_columns(file, hive, set(ignored_columns)) for file in found])
    return [
        PromptFile(
            url=file.url,
            name=file.name,
            version=file.version,
            num_bytes=file.num_bytes,
            num_rows=file.footer.num_rows,
            carried=carried,
            hive_values=file.hive_values,
            row_bytes=file.footer.row_bytes,
        )
        for file in found
    ]


def read_rows(file: PromptFile, start: int, stop: int, storage: dict[str, Any]) -> pa.Table:
    """All columns of rows `start` to `stop`; the carried ones have the types that they have in the manifest.

    Raises PromptsError if the file has changed, and DamagedFileError.
    """
    options = json.dumps(storage, sort_keys=True)
    offset, parts = 0, []
    with prompt_errors(f"rows {start} to {stop} of {file.url}"):
        for group, num_rows in enumerate(group_rows(file.url, file.version, options)):
            begin, end = max(start - offset, 0), min(stop - offset, num_rows)
            if begin < end:
                parts += [_job_and_carried(file, batch) for batch in read_group(file, options, group, begin, end)]
            offset += num_rows
        return pa.Table.from_batches(parts)


def _job_and_carried(file: PromptFile, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that the job reads, as they are, and every carried column in its type."""
    columns = {name: without_view(batch[name]) for name in batch.schema.names if name in COLUMN_TYPES}
    for name, value in file.hive_values:
        if name in COLUMN_TYPES:
            columns[name] = _repeated(value, len(batch), hive_type(name, [value]))
    hive_values = dict(file.hive_values)
    for field in file.carried:
        if field.name in batch.schema.names:
            columns[field.name] = conform(batch[field.name], field.type)
        else:
            columns[field.name] = _repeated(hive_values.get(field.name), len(batch), field.type)
    # Copied: Ray would ship a slice together with the whole batch.
    return pa.record_batch(columns).take(pa.array(range(len(batch)), pa.int64()))


def _repeated(value: str | None, length: int, kind: pa.DataType) -> pa.Array:
    if value is None:
        return pa.nulls(length, kind)
    return pa.repeat(pa.scalar(value).cast(kind), length)
