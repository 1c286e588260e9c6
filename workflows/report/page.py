"""The report as one HTML document: facts in a template, with the style and the script inlined.

The page loads nothing from a network, and its content security policy enforces that in the browser.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from actors.recipe import Recipe
from janus_batch import VERSION
from workflows.output.claim import Claim
from workflows.output.remaining import Completion
from workflows.report import charts as report_charts
from workflows.report.quality_rules import NEAR_DUPLICATE, NEAR_DUPLICATE_CONDITION, QUALITY_RULES, RULE_NAMES
from workflows.report.rejections import Rejections
from workflows.report.script_data import CHUNK, clean, data_url, image_link, image_table, script_json, thumbnail_chunks
from workflows.report.selection import SelectedImage, Selection, thumbnail_size
from workflows.report.survey import STATISTICS, Survey

FILES = Path(__file__).parent / "files"
IMAGES_PER_PAGE, SWEEP_ROWS_PER_PAGE = 60, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """Everything that the page shows."""

    url: str
    claim: Claim
    completion: Completion
    survey: Survey
    rejections: Rejections
    selection: Selection
    images: list[SelectedImage]

    @property
    def recipe(self) -> Recipe:
        return self.claim.recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """A prompt's first seed: for each weight of the sweep, the image and its position in the selection, or None."""

    prompt_id: str
    prompt: str
    cells: list[tuple[int, SelectedImage] | None]


def make_page(facts: ReportFacts) -> str:
    """The whole document."""
    environment = _environment()
    style = environment.get_template("page.css").render(
        thumbnail=thumbnail_size(len(facts.images)), num_weights=len(facts.recipe.cfg_weights)
    )
    script = (FILES / "page.js").read_text(encoding="utf-8")
    inlined = {
        # The only texts that are not escaped: our own files, and JSON that script_json made safe.
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(script_json(_script_data(facts))),
        "chunks": [Markup(script_json(chunk)) for chunk in thumbnail_chunks(facts.images)],
    }
    page = environment.get_template("page.html")
    return page.render(policy=_policy(style, script), **inlined, **_shown(facts))


def duration_text(seconds: float) -> str:
    """`4.2 s`, `45 s`, `2 min 30 s`, `42 min`, `5 h 21 min` or `2 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min" + (f" {int(seconds % 60)} s" if minutes < 10 else "")
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def weight_text(weight: float | None) -> str:
    return "other" if weight is None else f"{weight:g}"


def throughput_text(images_per_second: float | None) -> str:
    if images_per_second is None:
        return "–"
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "clean": clean,
        "count": lambda number: f"{number:,}",
        "duration": duration_text,
        "moment": lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC",
        "throughput": throughput_text,
        "weight": weight_text,
    }
    environment.filters |= filters
    environment.globals |= {"data_url": data_url, "image_link": image_link}
    return environment


def _shown(facts: ReportFacts) -> dict[str, Any]:
    """The variables of the template, which escapes all of them."""
    weights = facts.recipe.cfg_weights
    throughput = facts.survey.throughput
    return {
        "facts": facts,
        "weights": list(facts.survey.weights),
        "is_sweep": len(weights) > 1,
        "sweep_weights": sorted(weights),
        "sweep_rows": _sweep_rows(facts) if len(weights) > 1 else [],
        "first_images": list(enumerate(facts.images[:IMAGES_PER_PAGE])),
        "num_selected": sum(not image.is_extra for image in facts.images),
        "num_unreadable": sum(image.thumbnail is None for image in facts.images),
        "rules": [*((rule.name, rule.condition) for rule in QUALITY_RULES), (NEAR_DUPLICATE, NEAR_DUPLICATE_CONDITION)],
        "shown_matches": {name: sum(name in image.rules for image in facts.images) for name in RULE_NAMES},
        "statistic_names": report_charts.STATISTIC_NAMES,
        "statistic_tops": STATISTICS,
        "histograms": report_charts.histograms(facts.survey),
        "throughput": throughput,
        "chart": report_charts.throughput_chart(throughput),
        "charts": report_charts,
        "version": VERSION,
        "made_at": datetime.now(UTC),
    }


def _script_data(facts: ReportFacts) -> dict[str, Any]:
    weights = list(facts.survey.weights)
    return {
        "rules": RULE_NAMES,
        "nearDuplicate": RULE_NAMES.index(NEAR_DUPLICATE),
        "weights": [weight_text(weight) for weight in weights],
        "sweep": [weights.index(weight) for weight in sorted(facts.recipe.cfg_weights)],
        "chunk": CHUNK,
        "imagesPerPage": IMAGES_PER_PAGE,
        "rowsPerPage": SWEEP_ROWS_PER_PAGE,
        "images": image_table(facts.images, weights),
    }


def _sweep_rows(facts: ReportFacts) -> list[SweepRow]:
    """The first page of the sweep: one row per prompt, one column per weight."""
    columns = {weight: column for column, weight in enumerate(sorted(facts.recipe.cfg_weights))}
    rows: dict[str, SweepRow] = {}
    for number, image in enumerate(facts.images):
        row = image.row
        if image.is_extra or row["image_index"] or row["cfg_weight"] not in columns:
            continue
        if row["prompt_id"] not in rows and len(rows) == SWEEP_ROWS_PER_PAGE:
            break
        empty = SweepRow(prompt_id=row["prompt_id"], prompt=row["prompt"], cells=[None] * len(columns))
        rows.setdefault(row["prompt_id"], empty).cells[columns[row["cfg_weight"]]] = (number, image)
    return list(rows.values())


def _policy(style: str, script: str) -> str:
    """Only this page's own style and script run, and images come from the page or its folder; nothing else loads."""
    return (
        f"default-src 'none'; img-src data: 'self' file:; style-src {_source_hash(style)}; "
        f"script-src {_source_hash(script)}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
