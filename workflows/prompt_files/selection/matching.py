"""The rows that meet the condition of a job."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.prompt_files.column_types import TypeConflictError, common_type
from workflows.prompt_files.conform import conform
from workflows.prompt_files.file import PromptFile
from workflows.prompt_files.selection.stream import Rows, scan_columns
from workflows.row_filter import RowFilter, compile_filter

CHUNK_ROWS = 2**20
OF_IMAGES = {"judge", "judge_score", "clip", "aesthetic", "duplicates", "image_id", "width", "height"}  # no prompts'


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A checked condition, and the columns that it may name with the types that it expects."""

    filter: RowFilter
    schema: pa.Schema


def check_condition(files: Sequence[PromptFile], where: str) -> Condition:
    """The condition, checked against the columns of all files. Raises RowFilterError."""
    schema = _schema_of(files)
    return Condition(filter=compile_filter(where, schema, advice=partial(_advice, schema.names)), schema=schema)


def _advice(columns: Sequence[str], name: str) -> str:
    """What may be meant by a column that the prompts do not have."""
    if name.lower() in OF_IMAGES:
        return "; where selects prompts by their own columns, and `janus-batch export --where` images by their scores"
    by_name = {column.lower(): column for column in columns}
    alike = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.75)
    return f"; did you mean {by_name[alike[0]]}?" if alike else ""


def matching_rows(files: Sequence[PromptFile], condition: Condition | None, storage: dict[str, Any]) -> Iterator[Rows]:
    """The rows that meet the condition; all rows without one, and then no file is read."""
    if condition is None:
        yield from _all_rows(files)
        return
    columns = condition.filter.columns
    for index, file in enumerate(files):
        names = {name: dict(file.renamed).get(name, name) for name in columns}
        start = 0
        for num_rows, found in scan_columns(file, set(names.values()), storage):
            arrays = [conform(found[names[name]], condition.schema.field(name).type) for name in columns]
            # One more column, for a condition that names none.
            batch = pa.record_batch([*arrays, pa.nulls(num_rows)], names=[*columns, "\0"])
            numbers = start + np.flatnonzero(condition.filter.mask(batch).to_numpy(zero_copy_only=False))
            start += num_rows
            if len(numbers):
                yield Rows(file=index, numbers=numbers)


def _all_rows(files: Sequence[PromptFile]) -> Iterator[Rows]:
    for index, file in enumerate(files):
        for start in range(0, file.num_rows, CHUNK_ROWS):
            yield Rows(file=index, numbers=np.arange(start, min(start + CHUNK_ROWS, file.num_rows)))


def _schema_of(files: Sequence[PromptFile]) -> pa.Schema:
    """The columns that a condition may name, with one type each: those of the job, and their names in the files."""
    types: dict[str, pa.DataType] = {}
    for file in files:
        for field in [*file.read, *file.carried]:
            known = types.get(field.name, field.type)
            try:
                types[field.name] = common_type(known, field.type)
            except TypeConflictError:  # such as ids that are numbers in one file and text in another
                types[field.name] = pa.string()
        for written, name in file.renamed:
            types.setdefault(written, types[name])
    return pa.schema(list(types.items()))
