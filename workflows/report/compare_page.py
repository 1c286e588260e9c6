"""The page of a comparison: a row per prompt and seed, and the columns of each output next to each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.output.claim import Claim
from workflows.report import charts
from workflows.report.formats import weight_text
from workflows.report.grid import Grid, first_rows, make_grid
from workflows.report.page import IMAGES_PER_PAGE, ROWS_PER_PAGE, RULES, groupable
from workflows.report.pairs import ScorePairs
from workflows.report.quality_rules import RULE_NAMES
from workflows.report.script_data import page_data, score_names
from workflows.report.selection import SelectedImage
from workflows.report.survey import STATISTICS, Survey
from workflows.report.template import render_page

LETTERS = ("A", "B")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A setting that differs between the two recipes, and its values."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two outputs, with the images of the selected pairs.

    `num_alone` prompts and seeds have no partner in the other output; `alone` are ids and prompts of the first ones.
    """

    url: str
    claim: Claim
    survey: Survey
    images: list[SelectedImage]
    num_alone: int
    alone: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonFacts:
    """Everything that the page shows."""

    sides: tuple[Side, Side]
    differences: list[Difference]
    num_pairs: int
    num_shown: int
    num_other_prompts: int
    scores: list[ScorePairs]


def make_comparison_page(facts: ComparisonFacts) -> str:
    """The whole document."""
    columns = _columns(facts)
    numbered = [
        (number, image)
        for number, side in enumerate(facts.sides)
        for image in side.images
        if (number, image.row["cfg_weight"]) in columns
    ]
    images = [image for _, image in numbered]
    grid = _make_grid(numbered, columns)
    compared = [score.name for score in facts.scores]
    typical = facts.sides[0].survey.typical_rules & facts.sides[1].survey.typical_rules
    groups = groupable(facts.sides[0].survey, images)
    data = page_data(images, grid, groups, list(facts.sides[0].survey.weights), typical)
    data |= {
        "imagesPerPage": IMAGES_PER_PAGE,
        "rowsPerPage": ROWS_PER_PAGE,
        "sides": [side for side, _ in columns],
        "differences": [score_names(images).index(name) for name in compared if name in score_names(images)],
        "live": None,
    }
    variables = {
        "facts": facts,
        "titles": _titles(facts),
        "letters": LETTERS,
        "grid": grid,
        "grid_rows": first_rows(grid, images, ROWS_PER_PAGE, image_index=None),
        "first_images": list(enumerate(images[:IMAGES_PER_PAGE])),
        "weights": [],
        "rules": RULES,
        "typical": typical,
        "shown_matches": {name: sum(name in image.rules for image in images) for name in RULE_NAMES},
        "groups": groups,
        "grid_name": "Side by side",
        "order_name": "prompt order",
        "differences": [name for name in compared if name in score_names(images)],
        "num_seeds": 1,
        "score_names": score_names(images),
        "is_selection": facts.num_shown < facts.num_pairs,
        "statistic_names": charts.STATISTIC_NAMES,
        "statistic_means": {name: [_mean(side.survey, name) for side in facts.sides] for name in STATISTICS},
    }
    return render_page("compare.html", images, data, variables, num_columns=len(grid.columns))


def _titles(facts: ComparisonFacts) -> list[str]:
    """The names of the jobs; those of the folders if one job was rendered into two, and whole locations at last."""
    names = [side.claim.name for side in facts.sides]
    folders = [side.url.rpartition("/")[2] for side in facts.sides]
    urls = [side.url for side in facts.sides]
    return next(titles for titles in (names, folders, urls) if len(set(titles)) > 1 or titles is urls)


def _columns(facts: ComparisonFacts) -> list[tuple[int, float]]:
    """The columns of the grid: each output's weights, by the number of the output and the weight."""
    return [
        (number, weight)
        for number, side in enumerate(facts.sides)
        for weight, of_weight in side.survey.weights.items()
        if weight is not None and of_weight.num_images
    ]


def _make_grid(images: Sequence[tuple[int, SelectedImage]], columns: list[tuple[int, float]]) -> Grid:
    """`images` have the numbers of their outputs."""

    def place(number: int, image: SelectedImage) -> tuple[Hashable, int]:
        row = image.row
        seed = (row["row_seed"], row["seed"] if row["row_seed"] is None else None)
        return (row["prompt_id"], seed, row["image_index"]), columns.index((number, row["cfg_weight"]))

    labels = [f"{LETTERS[number]} · weight {weight_text(weight)}" for number, weight in columns]
    return make_grid(labels, (place(number, image) for number, image in images))


def _mean(survey: Survey, name: str) -> float | None:
    return sum(facts.sums[name] for facts in survey.weights.values()) / survey.num_images if survey.num_images else None
