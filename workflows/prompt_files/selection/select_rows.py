"""Selects rows of the prompt files and writes their numbers to a Parquet file, once for an output.

A selected row keeps its number, and with it its id and its seed. A shard is a range of the selected rows, so shards are
full however few rows are selected. Rows are read a batch at a time, and of their columns those that decide.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.job import PromptReading
from workflows.prompt_files.file import PromptFile, PromptsError, RowNumbers
from workflows.prompt_files.kept import KeptFiles
from workflows.prompt_files.selection.duplicates import first_of_each
from workflows.prompt_files.selection.matching import Condition, check_condition, matching_rows
from workflows.prompt_files.selection.sample import sampled
from workflows.prompt_files.selection.stream import Rows
from workflows.storage.store import open_url

PREFIX = "selected-"  # of the names of these files, before a hash of the settings and one of the prompt files
COUNTS = b"janus-batch.selected"  # key in their metadata
SCHEMA = pa.schema([("row", pa.int64())])


def select_rows(
    files: Sequence[PromptFile],
    reading: PromptReading,
    storage: dict[str, Any],
    kept: KeptFiles,
) -> list[PromptFile]:
    """The files with the rows that the job renders. Raises RowFilterError for a wrong condition, and PromptsError if
    files were added, removed or changed since rows of all files together were selected.
    """
    if not reading.selects_rows:
        return list(files)
    condition = None if reading.where is None else check_condition(files, reading.where)
    groups = [list(files)] if reading.depends_on_all_files else [[file] for file in files]
    names = [_name_of(group, reading) for group in groups]
    if reading.depends_on_all_files:
        _check_same_files(names[0], kept)
    selected = []
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        make = partial(_write, group, reading, condition, storage)
        step = "" if number or reading.takes_first_rows else "selecting rows of the prompts"
        selected += _with_selection(group, kept.find_or_make(name, make, step), storage)
    return selected


def _write(
    files: Sequence[PromptFile],
    reading: PromptReading,
    condition: Condition | None,
    storage: dict[str, Any],
    target: str,
) -> None:
    """Write the numbers of the selected rows, file by file."""
    num_rows = [0] * len(files)
    with tempfile.TemporaryDirectory(prefix="janus-batch-select-") as folder:
        rows = matching_rows(files, condition, storage)
        if reading.deduplicate:
            rows = first_of_each(rows, files, storage, folder)
        if reading.sample is not None:
            rows = sampled(rows, files, reading.sample, reading.sample_seed)
        if reading.limit is not None:
            rows = _first(rows, reading.limit)
        encoding = {"use_dictionary": False, "column_encoding": {"row": "DELTA_BINARY_PACKED"}}
        with pq.ParquetWriter(target, SCHEMA, compression="zstd", **encoding) as writer:
            for chunk in rows:
                num_rows[chunk.file] += len(chunk.numbers)
                writer.write_batch(pa.record_batch([pa.array(chunk.numbers, pa.int64())], schema=SCHEMA))
            writer.add_key_value_metadata({COUNTS: json.dumps(num_rows)})


def _first(rows: Iterator[Rows], limit: int) -> Iterator[Rows]:
    """The first rows, without reading further."""
    while limit > 0 and (chunk := next(rows, None)) is not None:
        yield dataclasses.replace(chunk, numbers=chunk.numbers[:limit])
        limit -= len(chunk.numbers)


def _with_selection(files: Sequence[PromptFile], url: str, storage: dict[str, Any]) -> list[PromptFile]:
    fs, path = open_url(url, storage)
    with fs.open(path, "rb") as file:
        counts: list[int] = json.loads(pq.read_metadata(file).metadata[COUNTS])
    starts = itertools.accumulate(counts, initial=0)
    return [
        dataclasses.replace(
            file, num_rows=count, num_file_rows=file.num_rows, selection=RowNumbers(url=url, start=start)
        )
        for file, count, start in zip(files, counts, starts, strict=False)
    ]


def _name_of(files: Sequence[PromptFile], reading: PromptReading) -> str:
    """The name of a selection: it depends on everything that decides which rows of these files are selected."""
    settings, content = dataclasses.asdict(reading), [(file.name, file.version) for file in files]
    return f"{PREFIX}{_digest(settings)}-{_digest(content)}.parquet"


def _digest(made_from: object) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def _check_same_files(name: str, kept: KeptFiles) -> None:
    """Refuse other prompt files with the same settings. Other settings are for the claim of the output to refuse."""
    settings, ending = name.rpartition("-")[0], ".parquet"  # an interrupted copy has another ending
    others = {found for found in kept.names if found.startswith(f"{settings}-") and found.endswith(ending)}
    if others and name not in others:
        raise PromptsError(
            "prompts: files were added, removed or changed after rows of all files together were selected (with "
            "limit, sample or deduplicate); put the files back as they were, or render into another output folder"
        )
