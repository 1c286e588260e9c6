"""Write report.html into an output: its images, settings, throughput and rejected rows on one page.

Needs neither Ray nor a network. Reads the output and the footers of the prompt files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from workflows.output.claim import read_claim
from workflows.output.manifest import committed_parts
from workflows.output.remaining import completion_of
from workflows.report.page import ReportFacts, make_page
from workflows.report.rejections import collect_rejections
from workflows.report.selection import load_images, select_images
from workflows.report.survey import survey_manifest
from workflows.storage.errors import storage_errors
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A written report. The page shows `num_shown` of the images; `num_matching` counts all images by quality rule."""

    url: str
    num_bytes: int
    num_images: int
    num_shown: int
    num_matching: Counter[str]


def write_report(storage: Storage) -> Report:
    """Write report.html into an output and replace an older one.

    Raises StorageError if this is not an output or cannot be used, DamagedFileError if a file in it is damaged.
    """
    with storage_errors(storage.url):
        facts = gather_facts(storage)
    page = make_page(facts).encode()
    with storage_errors(storage.url):
        storage.write(REPORT_FILE, page)
    return Report(
        url=f"{storage.url}/{REPORT_FILE}",
        num_bytes=len(page),
        num_images=facts.survey.num_images,
        num_shown=len(facts.images),
        num_matching=facts.survey.num_matching,
    )


def gather_facts(storage: Storage) -> ReportFacts:
    """Read the manifest once for the totals, then the selected images."""
    claim = read_claim(storage)
    recipe = claim.recipe
    shard_ids = committed_parts(storage)
    survey = survey_manifest(storage, shard_ids, recipe.cfg_weights)
    is_packed = claim.images.layout != "files"
    selection = select_images(survey, num_seeds=recipe.images_per_prompt, is_packed=is_packed)
    return ReportFacts(
        url=storage.url,
        command_output=output_arguments(storage.url, storage.options),
        claim=claim,
        completion=completion_of(storage, claim, shard_ids),
        survey=survey,
        rejections=collect_rejections(storage, shard_ids),
        selection=selection,
        images=load_images(storage, selection, survey.near_duplicates),
    )
