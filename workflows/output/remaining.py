"""The part of a job that is not committed yet: its prompt files minus the committed shards of its output."""

from __future__ import annotations

from workflows.job import RenderJob
from workflows.output.claim import claimed_shard_rows
from workflows.output.manifest import committed_parts
from workflows.plan import Plan, make_plan
from workflows.prompts import PromptFile, find_prompt_files
from workflows.rows import ignored_columns
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


def find_job_prompts(job: RenderJob) -> list[PromptFile]:
    """The job's prompt files. Raises PromptsError, DamagedFileError or StorageError naming the file at fault."""
    return find_prompt_files(job.prompts, job.storage, ignored_columns=ignored_columns(job.recipe.family))


def plan_job(job: RenderJob, files: list[PromptFile]) -> Plan:
    """The plan of the rows that are not committed. Raises SourceChangedError, or StorageError for the output."""
    storage = Storage(job.output, job.storage)
    with storage_errors(job.output):
        return make_plan(files, committed_parts(storage), claimed_shard_rows(storage, job))
