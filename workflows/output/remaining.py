"""What remains of a job or of an output: its prompt files minus the committed shards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from actors.errors import InputError, shown
from workflows.job import RenderJob
from workflows.output.claim import SUCCESS_FILE, Claim, claimed_shard_rows
from workflows.output.manifest import committed_parts, committed_types, read_rejected, rejected_files
from workflows.output.repairs import pending_repairs
from workflows.plan import Plan, make_plan
from workflows.prompt_files.columns import carried_like
from workflows.prompt_files.ids import fault_of_id
from workflows.prompts import (
    COLUMN_TYPES,
    MAX_IDS,
    Place,
    PromptFile,
    PromptsError,
    find_prompt_files,
    rows_with_same_ids,
)
from workflows.rows import ignored_columns
from workflows.storage.errors import StorageUnreachable, storage_errors
from workflows.storage.store import Storage

MANY_ROWS = 5_000_000  # whose ids take seconds to compare
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


def check_ids(job: RenderJob, files: list[PromptFile], say: Callable[[str], None] = lambda line: None) -> None:
    """Raise PromptsError if rows that are to be rendered have an id that another row has.

    Committed rows alone are no reason to refuse a job, and rejected rows have no image. Reads the ids of all rows;
    `say` is told if that takes time. Raises DamagedFileError and StorageError, too.
    """
    num_rows = sum(file.num_rows for file in files)
    if num_rows >= MANY_ROWS and any(file.has_ids for file in files):
        say(f"comparing the ids of {num_rows:,} prompts ...")
    found = rows_with_same_ids(files, job.storage)
    if (first := next(found, None)) is None:
        return
    storage = Storage(job.output, job.storage)
    plan = plan_job(job, files)
    with storage_errors(job.output):
        rejected = _rejected_rows(storage)
    same: dict[str, _SameId] = {}
    for text, place in itertools.chain([first], found):
        if fault_of_id(text) is None and (place.file.url, place.number) not in rejected:
            is_open = not plan.is_committed(place.file, place.position)
            if text in same:
                same[text].add(place, is_open=is_open)
            else:
                same[text] = _SameId(text=text, first=place, is_open=is_open)
    refused = [one for one in same.values() if one.other and one.is_open]
    if refused:
        at_least = "at least " * (len(same) >= MAX_IDS)
        raise PromptsError(
            f"prompts: {refused[0]}; ids must be unique in a job (rows count from 0, and {at_least}"
            f"{sum(one.num_others for one in refused):,} repeat an earlier id): {refused[0].remedy}"
        )


@dataclass(kw_only=True, slots=True)
class _SameId:
    """The rows with one id: the first one, how many others there are, and one of these, which is not committed if
    possible. `is_open`: not all of the rows are committed.
    """

    text: str
    first: Place
    other: Place | None = None
    num_others: int = 0
    is_open: bool

    def add(self, place: Place, *, is_open: bool) -> None:
        if self.other is None or (is_open and not self.is_open):
            self.other = place
        self.num_others += 1
        self.is_open |= is_open

    def __str__(self) -> str:
        rows = [f"row {place.number:,} of {place.file.url}" for place in self._places]
        return f"{' and '.join(rows)} have the same id {shown(self.text)}"

    @property
    def remedy(self) -> str:
        if all(place.file.has_ids for place in self._places):
            return (
                "give each row an id of its own, name another column as the id (columns.id), write columns.id: null if "
                "the column is no id, or leave out rows that ask for the same images (deduplicate: true)"
            )
        return "a file without a column `id` gets the ids of its rows from its name: rename it, or add the column"

    @property
    def _places(self) -> list[Place]:
        return [place for place in (self.first, self.other) if place]


def _rejected_rows(storage: Storage) -> set[tuple[str, int]]:
    """The committed rows that have no image: (prompt file, number of the row)."""
    rows: set[tuple[str, int]] = set()
    for name in rejected_files(storage, committed_parts(storage)).values():
        table = read_rejected(storage, name, ["source", "row", "image_id"])
        table = table.filter(pc.is_null(table["image_id"]))
        rows.update(zip(table["source"].to_pylist(), table["row"].to_pylist(), strict=True))
    return rows


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
