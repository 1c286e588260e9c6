"""What an output holds, counted from storage alone, and how much of its prompts is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from actors.errors import InputError
from workflows.output.claim import SUCCESS_FILE, Claim
from workflows.output.manifest import NUM_READERS, committed_parts, count_rows, read_table, rejected_files
from workflows.plan import Plan, make_plan, split_part_id
from workflows.prompts import COLUMN_TYPES, find_prompt_files
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """The committed shards and images, and the rejected images by reason."""

    num_shards: int
    num_images: int
    num_rejected: int
    reasons: Counter[str]


def tally_output(output: str, storage_options: dict[str, Any]) -> Tally:
    """Count images from the footers of the manifest parts, and rejected images from the files that count."""
    with storage_errors(output):
        storage = Storage(output, storage_options)
        parts = committed_parts(storage)
        rejected_names = rejected_files(storage, parts).values()
        with ThreadPoolExecutor(NUM_READERS) as readers:
            counts = readers.map(lambda part: count_rows(storage, part), parts)
            num_images = sum(counts)
            reasons: Counter[str] = Counter()
            for counted in readers.map(lambda name: _count_reasons(storage, name), rejected_names):
                reasons.update(counted)
    num_shards = len({split_part_id(part)[0] for part in parts})
    return Tally(num_shards=num_shards, num_images=num_images, num_rejected=reasons.total(), reasons=reasons)


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
    except InputError as error:
        return Completion(is_marked=is_marked, num_missing=None, unknown=str(error))
    return Completion(is_marked=is_marked, num_missing=plan.num_rows_remaining * claim.recipe.images_per_row)


def plan_of(storage: Storage, claim: Claim, parts: Iterable[str]) -> Plan:
    """The output's prompt files as they are now, minus the committed parts; counts rows and reads no columns.

    Raises PromptsError, SourceChangedError, DamagedFileError or StorageError.
    """
    files = find_prompt_files(claim.prompts, storage.options, ignored_columns=COLUMN_TYPES)
    return make_plan(files, parts, claim.shard_rows)


def _count_reasons(storage: Storage, name: str) -> Counter[str]:
    """The number of rejected images by reason, in one file."""
    reasons: Counter[str] = Counter()
    for row in read_table(storage, name, ["reason", "num_images"]).to_pylist():
        reasons[row["reason"]] += row["num_images"]
    return reasons
