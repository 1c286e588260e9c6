"""The page of one output: its facts as the variables of the template and the data of the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from actors.recipe import Recipe
from workflows.output.claim import Claim
from workflows.output.remaining import Completion
from workflows.report import charts
from workflows.report.carried import Grouping
from workflows.report.formats import weight_text
from workflows.report.grid import Grid, GridRow, first_rows, sweep_grid
from workflows.report.quality_rules import NEAR_DUPLICATE, NEAR_DUPLICATE_CONDITION, QUALITY_RULES, RULE_NAMES
from workflows.report.rejections import Rejections
from workflows.report.script_data import carried_names, page_data, score_names
from workflows.report.selection import SelectedImage, Selection
from workflows.report.survey import STATISTICS, Survey
from workflows.report.template import render_page

IMAGES_PER_PAGE, ROWS_PER_PAGE = 60, 12
RULES = [*((rule.name, rule.condition) for rule in QUALITY_RULES), (NEAR_DUPLICATE, NEAR_DUPLICATE_CONDITION)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveFacts:
    """The state of a job that is running.

    The page reloads itself every `reload_seconds`, and says that the job may have ended once it is unchanged for
    `stale_seconds`.
    """

    num_images: int
    num_total: int
    num_left: int
    num_actors: int
    images_per_second: float | None
    eta_seconds: float | None
    written_at: datetime
    reload_seconds: float
    stale_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """Everything that the page shows. `command_output` are the arguments of a command for this output."""

    url: str
    command_output: str
    claim: Claim
    completion: Completion
    survey: Survey
    rejections: Rejections
    selection: Selection
    images: list[SelectedImage]
    live: LiveFacts | None = None

    @property
    def recipe(self) -> Recipe:
        return self.claim.recipe

    @property
    def num_unreadable(self) -> int:
        return sum(image.thumbnail is None for image in self.images)


def make_page(facts: ReportFacts) -> str:
    """The whole document."""
    weights = sorted(facts.recipe.cfg_weights)
    is_sweep = len(weights) > 1
    columns = [f"weight {weight_text(weight)}" for weight in weights] if is_sweep else []
    grid = sweep_grid(facts.images, weights if is_sweep else [], columns)
    rows = first_rows(grid, facts.images, ROWS_PER_PAGE, image_index=0)
    return render_page(
        "page.html", facts.images, _script_data(facts, grid), _shown(facts, grid, rows), num_columns=len(grid.columns)
    )


def status_of(facts: ReportFacts) -> tuple[str, str]:
    """The kind and the words of the status. Finished is claimed only over prompts and images that could be read."""
    completion = facts.completion
    if facts.live:
        return "live", "Rendering" if facts.live.num_images or facts.live.num_actors else "Starting"
    if facts.num_unreadable:
        return "open", "Files missing or damaged"
    if completion.is_finished:
        return ("done", "Finished") if completion.num_missing is not None else ("open", "Prompts cannot be read")
    if completion.num_missing:
        return "open", "New prompts since it finished" if completion.is_marked else "Not finished"
    return "open", "Not marked as finished"


def groupable(survey: Survey, images: Sequence[SelectedImage]) -> Grouping:
    """The carried columns that divide the job into groups, as far as the selection shows them."""
    shown = carried_names(images)
    return [(name, groups) for name, groups in survey.groups.divided().items() if name in shown]


def _shown(facts: ReportFacts, grid: Grid, rows: list[GridRow]) -> dict[str, Any]:
    """The variables of the template, which escapes all of them."""
    throughput = facts.survey.throughput
    status_kind, status = status_of(facts)
    return {
        "facts": facts,
        "status": status,
        "status_kind": status_kind,
        "weights": list(facts.survey.weights),
        "grid": grid,
        "grid_rows": rows,
        "first_images": list(enumerate(facts.images[:IMAGES_PER_PAGE])),
        "num_selected": sum(not image.is_extra for image in facts.images),
        "rules": RULES,
        "typical": facts.survey.typical_rules,
        "shown_matches": {name: sum(name in image.rules for image in facts.images) for name in RULE_NAMES},
        "groups": groupable(facts.survey, facts.images),
        "grid_name": "Sweep",
        "order_name": "newest first" if facts.live else "prompt order",
        "differences": [],
        "num_seeds": facts.selection.num_seeds,
        "score_names": score_names(facts.images),
        "score_charts": charts.score_charts(facts.survey),
        "statistic_names": charts.STATISTIC_NAMES,
        "statistic_tops": STATISTICS,
        "histograms": charts.histograms(facts.survey),
        "throughput": throughput,
        "chart": charts.throughput_chart(throughput),
    }


def _script_data(facts: ReportFacts, grid: Grid) -> dict[str, Any]:
    groups = groupable(facts.survey, facts.images)
    return {
        **page_data(facts.images, grid, groups, list(facts.survey.weights), facts.survey.typical_rules),
        "imagesPerPage": IMAGES_PER_PAGE,
        "rowsPerPage": ROWS_PER_PAGE,
        "live": facts.live and _live_entry(facts.live),
    }


def _live_entry(live: LiveFacts) -> dict[str, Any]:
    return {
        "writtenAt": live.written_at.isoformat(),
        "reloadSeconds": live.reload_seconds,
        "staleSeconds": live.stale_seconds,
    }
