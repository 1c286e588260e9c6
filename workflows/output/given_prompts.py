"""Prompts given as text, such as those of the command line, stored as a Parquet file in the output.

The output keeps them because nothing else does: a resume, a retry of rejected rows and `verify` read the same rows from
this file, in the same version.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from actors.errors import one_line
from workflows.job import RenderJob
from workflows.output.claim import OtherJobError, check_claim
from workflows.output.layouts import parquet_bytes
from workflows.storage.damage import damage_errors
from workflows.storage.errors import storage_errors
from workflows.storage.parquet import read_parquet
from workflows.storage.store import Storage

GIVEN_PROMPTS = "prompts/prompt.parquet"  # relative to OUTPUT; the ids of its rows are prompt-000000000 and so on


def given_prompts_location(output: str) -> str:
    """The location of the stored prompts of an output, for the job's `prompts`."""
    return f"{output.rstrip('/')}/{GIVEN_PROMPTS}"


def store_prompts(job: RenderJob, prompts: Sequence[str]) -> None:
    """Write the prompts into the output, once. Raises OtherJobError if the output belongs to another job or holds
    other prompts, and StorageError.
    """
    check_claim(job)
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output), damage_errors(f"{job.output}/{GIVEN_PROMPTS}"):
        if storage.create(GIVEN_PROMPTS, parquet_bytes(pa.table({"prompt": pa.array(prompts, pa.string())}))):
            return
        stored = read_parquet(storage.read(GIVEN_PROMPTS), ["prompt"])["prompt"].to_pylist()
    if stored != list(prompts):
        raise OtherJobError(f"{job.output} belongs to a job with other prompts: {_difference(stored, prompts)}")


def _difference(stored: Sequence[str], given: Sequence[str]) -> str:
    """The first difference, and what is allowed."""
    allowed = "give the same prompts in the same order, or render into another output folder"
    if len(stored) != len(given):
        return f"it has {len(stored):,}, this command has {len(given):,}; {allowed}"
    number, theirs, ours = next(
        (number, *pair) for number, pair in enumerate(zip(stored, given, strict=True), 1) if pair[0] != pair[1]
    )
    return f"its prompt {number} is {one_line(theirs)!r}, yours is {one_line(ours)!r}; {allowed}"
