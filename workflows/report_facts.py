"""What a report tells of an output, gathered from storage: claim, completion, totals, rejected rows, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.plan import make_plan
from workflows.prompts import COLUMN_TYPES, find_prompt_files
from workflows.rejections import Rejections, collect_rejections
from workflows.resume import SUCCESS_FILE, committed_shards, read_claim
from workflows.sample import Choice, Picture, choose_pictures, load_pictures
from workflows.storage import Storage
from workflows.survey import Survey, survey_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """How much of a job is there. `num_missing` is None where the prompts cannot be read, `unknown` says why."""

    is_marked: bool
    num_missing: int | None
    unknown: str = ""

    @property
    def is_finished(self) -> bool:
        return self.is_marked and not self.num_missing


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """All that the page tells."""

    url: str
    claim: dict[str, Any]
    recipe: Recipe
    completion: Completion
    survey: Survey
    rejections: Rejections
    choice: Choice
    pictures: list[Picture]


def gather_facts(storage: Storage) -> ReportFacts:
    """Everything the page needs: one pass over the manifest for the totals, then the pictures it shows."""
    claim = read_claim(storage)
    recipe = Recipe.from_dict(claim["recipe"])
    shard_ids = committed_shards(storage)
    survey = survey_manifest(storage, shard_ids, recipe.cfg_weights)
    is_packed = claim["images"]["layout"] != "files"
    choice = choose_pictures(survey, num_seeds=recipe.images_per_prompt, is_packed=is_packed)
    return ReportFacts(
        url=storage.url,
        claim=claim,
        recipe=recipe,
        completion=_completion(storage, claim, recipe, shard_ids),
        survey=survey,
        rejections=collect_rejections(storage, shard_ids),
        choice=choice,
        pictures=load_pictures(storage, choice, survey.lookalikes),
    )


def _completion(storage: Storage, claim: dict[str, Any], recipe: Recipe, shard_ids: list[str]) -> Completion:
    """What is left of the prompts. They may be gone or changed since; the pictures are worth a report all the same."""
    is_marked = storage.exists(SUCCESS_FILE)
    try:
        files = find_prompt_files(claim["prompts"], storage.options, ignored_columns=COLUMN_TYPES)
        plan = make_plan(files, shard_ids, claim["shard_rows"])
    except InputError as error:
        return Completion(is_marked=is_marked, num_missing=None, unknown=str(error))
    num_rows_left = plan.num_rows - plan.num_rows_committed
    return Completion(is_marked=is_marked, num_missing=num_rows_left * recipe.images_per_row)
