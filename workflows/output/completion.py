"""Whether an output holds all that its prompts ask for; they may be gone since, and then its own mark decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.output.claim import SUCCESS_FILE
from workflows.plan import make_plan
from workflows.prompts import COLUMN_TYPES, find_prompt_files
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """How much of a job is there. `num_missing` is None where the prompts cannot be read, `unknown` says why."""

    is_marked: bool
    num_missing: int | None
    unknown: str = ""

    @property
    def is_finished(self) -> bool:
        return self.is_marked and not self.num_missing


def completion_of(storage: Storage, claim: dict[str, Any], recipe: Recipe, shard_ids: Iterable[str]) -> Completion:
    """Compare the prompts as they are now with the committed shards."""
    is_marked = storage.exists(SUCCESS_FILE)
    try:
        files = find_prompt_files(claim["prompts"], storage.options, ignored_columns=COLUMN_TYPES)
        plan = make_plan(files, shard_ids, claim["shard_rows"])
    except InputError as error:
        return Completion(is_marked=is_marked, num_missing=None, unknown=str(error))
    num_rows_left = plan.num_rows - plan.num_rows_committed
    return Completion(is_marked=is_marked, num_missing=num_rows_left * recipe.images_per_row)
