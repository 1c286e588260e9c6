"""What remains of a job or of an output: its prompt files minus the committed shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from actors.errors import InputError
from workflows.job import RenderJob
from workflows.output.claim import SUCCESS_FILE, Claim, claimed_shard_rows
from workflows.output.manifest import committed_parts
from workflows.output.repairs import pending_repairs
from workflows.plan import Plan, make_plan
from workflows.prompts import COLUMN_TYPES, PromptFile, find_prompt_files
from workflows.rows import ignored_columns
from workflows.storage.errors import StorageUnreachable, storage_errors
from workflows.storage.store import Storage


def find_job_prompts(job: RenderJob) -> list[PromptFile]:
    """The job's prompt files. Raises PromptsError, DamagedFileError or StorageError naming the file at fault."""
    return find_prompt_files(job.prompts, job.storage, ignored_columns=ignored_columns(job.recipe.family))


def plan_job(job: RenderJob, files: list[PromptFile]) -> Plan:
    """The plan of the rows that are not committed. Raises SourceChangedError, or StorageError for the output."""
    storage = Storage(job.output, job.storage)
    with storage_errors(job.output):
        return _plan(storage, files, committed_parts(storage), claimed_shard_rows(storage, job))


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
    files = find_prompt_files(claim.prompts, storage.options, ignored_columns=COLUMN_TYPES)
    return _plan(storage, files, parts, claim.shard_rows)


def _plan(storage: Storage, files: list[PromptFile], parts: Iterable[str], shard_rows: int) -> Plan:
    plan = make_plan(files, parts := list(parts), shard_rows)
    return replace(plan, repairs=pending_repairs(storage, files, parts))
