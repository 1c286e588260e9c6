"""Prompts that are given in memory, as texts or as a table, stored as a Parquet file in the output.

The output keeps them because nothing else does: a resume, a retry of rejected rows and `verify` read the same rows from
this file, in the same version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from actors.errors import one_line, shown
from workflows.job import RenderJob
from workflows.output.claim import OtherJobError, check_claim
from workflows.output.layouts import parquet_bytes
from workflows.output.remaining import check_ids, find_job_prompts
from workflows.prompt_files.file import PromptsError, prompt_errors
from workflows.prompt_files.found import check_table
from workflows.rows import ignored_columns
from workflows.storage.damage import damage_errors
from workflows.storage.errors import storage_errors
from workflows.storage.parquet import read_parquet
from workflows.storage.store import Storage

GIVEN_PROMPTS = "prompts/prompt.parquet"  # relative to OUTPUT; the ids of its rows are prompt-000000000 and so on
ALLOWED = "give the same prompts in the same order, or render into another output folder"


def given_prompts_location(output: str) -> str:
    """The location of the stored prompts of an output, for the job's `prompts`."""
    return f"{output.rstrip('/')}/{GIVEN_PROMPTS}"


def prompt_table(texts: Sequence[str]) -> pa.Table:
    """Texts as rows that have a prompt and nothing else."""
    return pa.table({"prompt": pa.array(texts, pa.string())})


def store_prompts(job: RenderJob, prompts: pa.Table) -> None:
    """Write the rows into the output, once. Raises PromptsError for columns or ids that prompt files may not have,
    OtherJobError if the output belongs to another job or holds other prompts, and StorageError.
    """
    with prompt_errors("the table"):
        data = parquet_bytes(prompts)
    check_table("the table", data, job.reading, ignored_columns(job.recipe.family))
    check_claim(job)
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output):
        is_stored = storage.exists(GIVEN_PROMPTS)
    if not is_stored and job.reading.names_in_files(["id"]).get("id") in prompts.column_names:
        _check_ids(job, data)
    with storage_errors(job.output), damage_errors(f"{job.output}/{GIVEN_PROMPTS}"):
        if storage.create(GIVEN_PROMPTS, data):
            return
        stored, given = read_parquet(storage.read(GIVEN_PROMPTS)), read_parquet(data)
    if difference := _difference(stored, given):
        raise OtherJobError(f"{job.output} belongs to a job with other prompts: {difference}; {ALLOWED}")


def _check_ids(job: RenderJob, data: bytes) -> None:
    """Raise PromptsError if rows to render have the same id, before they are in an output that takes no others."""
    with tempfile.TemporaryDirectory(prefix="janus-batch-table-") as folder:
        path = Path(folder) / Path(GIVEN_PROMPTS).name
        path.write_bytes(data)
        job = replace(job, prompts=str(path))
        try:
            check_ids(job, find_job_prompts(job))
        except PromptsError as error:
            raise PromptsError(str(error).replace(path.as_uri(), "the table")) from error


def _difference(stored: pa.Table, given: pa.Table) -> str:
    """The first difference; empty if there is none."""
    if stored.num_rows != given.num_rows:
        return f"it has {stored.num_rows:,}, yours are {given.num_rows:,}"
    if stored.schema.names != given.schema.names:
        return f"its columns are {_names(stored)}, yours are {_names(given)}"
    for name in stored.schema.names:
        if not stored[name].equals(given[name]):  # NaN equals no NaN, so values of equal text are not different
            pairs = zip(stored[name].to_pylist(), given[name].to_pylist(), strict=True)
            for number, (theirs, ours) in enumerate(pairs, 1):
                if repr(theirs) != repr(ours):
                    what = f"prompt {number}" if name == "prompt" else f"{one_line(name)} of prompt {number}"
                    return f"its {what} is {_value(theirs)}, yours is {_value(ours)}"
    return ""


def _value(value: object) -> str:
    return repr(one_line(value)) if isinstance(value, str) else shown(value)


def _names(table: pa.Table) -> str:
    return one_line(", ".join(table.schema.names))
