"""What a report tells of an output, gathered from storage: claim, completion, totals, rejected rows, pictures."""

from __future__ import annotations

from dataclasses import dataclass

from actors.recipe import Recipe
from workflows.output.claim import Claim, read_claim
from workflows.output.manifest import committed_parts
from workflows.output.tally import Completion, completion_of
from workflows.report.rejections import Rejections, collect_rejections
from workflows.report.selection import Choice, Picture, choose_pictures, load_pictures
from workflows.report.survey import Survey, survey_manifest
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """All that the page tells."""

    url: str
    claim: Claim
    completion: Completion
    survey: Survey
    rejections: Rejections
    choice: Choice
    pictures: list[Picture]

    @property
    def recipe(self) -> Recipe:
        return self.claim.recipe


def gather_facts(storage: Storage) -> ReportFacts:
    """Everything the page needs: one pass over the manifest for the totals, then the pictures it shows."""
    claim = read_claim(storage)
    recipe = claim.recipe
    shard_ids = committed_parts(storage)
    survey = survey_manifest(storage, shard_ids, recipe.cfg_weights)
    is_packed = claim.images.layout != "files"
    choice = choose_pictures(survey, num_seeds=recipe.images_per_prompt, is_packed=is_packed)
    return ReportFacts(
        url=storage.url,
        claim=claim,
        completion=completion_of(storage, claim, shard_ids),
        survey=survey,
        rejections=collect_rejections(storage, shard_ids),
        choice=choice,
        pictures=load_pictures(storage, choice, survey.lookalikes),
    )
