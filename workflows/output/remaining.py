"""What remains of a job or of an output: its prompt files minus the committed shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from actors.errors import InputError
from workflows.job import RenderJob
from workflows.output.claim import SUCCESS_FILE, Claim, claimed_shard_rows
from workflows.output.manifest import committed_parts, committed_types
from workflows.output.repairs import pending_repairs
from workflows.plan import Plan, make_plan
from workflows.prompt_files.columns import carried_like
from workflows.prompts import COLUMN_TYPES, PromptFile, PromptsError, find_prompt_files
from workflows.rows import ignored_columns
from workflows.storage.errors import StorageUnreachable, storage_errors
from workflows.storage.store import Storage

MAX_CARRIED_BYTES = 2**30  # by the images of a shard; its manifest part holds them


def find_job_prompts(job: RenderJob, say: Callable[[str], None] = lambda line: None) -> list[PromptFile]:
    """The job's prompt files; `say` is told what takes time.

    Raises PromptsError, DamagedFileError or StorageError naming the file at fault.
    """
    return find_prompt_files(
        job.prompts,
        job.storage,
        ignored_columns=ignored_columns(job.recipe.family),
        reading=job.reading,
        output=job.output,
        say=say,
    )


def plan_job(job: RenderJob, files: list[PromptFile]) -> Plan:
    """The plan of the rows that are not committed. Its files carry columns with the types of the committed parts.

    Raises SourceChangedError, PromptsError for columns that cannot be carried, or StorageError for the output.
    """
    storage = Storage(job.output, job.storage)
    with storage_errors(job.output):
        parts, shard_rows = committed_parts(storage), claimed_shard_rows(storage, job)
        _check_shard_bytes(job, files, shard_rows)
        make_plan(files, parts, shard_rows)  # a changed file is told first
        return _plan(storage, _with_committed_types(storage, files, parts), parts, shard_rows)


def _with_committed_types(storage: Storage, files: list[PromptFile], parts: Sequence[str]) -> list[PromptFile]:
    carried = files[0].carried
    if not parts or not carried.names:
        return files
    carried = carried_like(carried, committed_types(storage, parts, carried.names), storage.url)
    return [replace(file, carried=carried) for file in files]


def _check_shard_bytes(job: RenderJob, files: Iterable[PromptFile], shard_rows: int) -> None:
    """Raise PromptsError if a shard would carry more than memory and Arrow's arrays take."""
    for file in files:
        num_rows = min(shard_rows, file.num_rows)
        num_bytes = num_rows * file.row_bytes * job.recipe.images_per_row
        if num_bytes > MAX_CARRIED_BYTES:
            raise PromptsError(
                f"prompts: the images of {num_rows:,} rows of {file.url} would carry {num_bytes:,} bytes of its other "
                f"columns; a shard may carry {MAX_CARRIED_BYTES:,} bytes: lower shard_rows, or leave large columns out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """How much of a job is missing. `num_missing` is None if the prompts cannot be read; `unknown` says why."""

    is_marked: bool
    num_missing: int | None
    unknown: str = ""

    @property
    def is_finished(self) -> bool:
        return self.is_marked and not self.num_missing


def completion_of(storage: Storage, claim: Claim, parts: Iterable[str]) -> Completion:
    """Compare the prompts as they are now with the committed parts."""
    is_marked = storage.exists(SUCCESS_FILE)
    try:
        plan = plan_of(storage, claim, parts)
    except (InputError, StorageUnreachable) as error:
        return Completion(is_marked=is_marked, num_missing=None, unknown=str(error))
    return Completion(is_marked=is_marked, num_missing=plan.num_images_remaining(claim.recipe.images_per_row))


def plan_of(storage: Storage, claim: Claim, parts: Iterable[str]) -> Plan:
    """The output's prompt files as they are now, minus the committed parts; counts rows and reads no columns of them.

    Raises PromptsError, SourceChangedError, DamagedFileError or StorageError.
    """
    files = find_prompt_files(
        claim.prompts,
        storage.options,
        ignored_columns=COLUMN_TYPES,
        reading=claim.reading,
        output=storage.url,
    )
    return _plan(storage, files, parts, claim.shard_rows)


def _plan(storage: Storage, files: list[PromptFile], parts: Iterable[str], shard_rows: int) -> Plan:
    plan = make_plan(files, parts := list(parts), shard_rows)
    return replace(plan, repairs=pending_repairs(storage, files, parts))
