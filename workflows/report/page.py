"""The report as one HTML document: facts into the template, style and script inlined, everything else escaped.

The page loads nothing from a network, and its content security policy says so to the browser.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from workflows.report import charts as report_charts
from workflows.report.data import CHUNK, clean, data_url, picture_link, picture_table, script_json, thumbnail_chunks
from workflows.report.facts import ReportFacts
from workflows.report.quality_rules import FLAG_NAMES, FLAGS, LOOKALIKE, LOOKALIKE_RULE
from workflows.report.selection import Picture, thumbnail_size
from workflows.report.survey import STATISTICS

FILES = Path(__file__).parent / "files"
PICTURES_A_PAGE, SWEEP_ROWS_A_PAGE = 60, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """A prompt's first seed: at each weight of the sweep its picture with its number, or None."""

    prompt_id: str
    prompt: str
    cells: list[tuple[int, Picture] | None]


def make_page(facts: ReportFacts) -> str:
    """The whole document."""
    environment = _environment()
    style = environment.get_template("page.css").render(
        thumbnail=thumbnail_size(len(facts.pictures)), num_weights=len(facts.recipe.cfg_weights)
    )
    script = (FILES / "page.js").read_text(encoding="utf-8")
    inlined = {
        # The only texts that are not escaped: our own files, and JSON that script_json made safe.
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(script_json(_script_data(facts))),
        "chunks": [Markup(script_json(chunk)) for chunk in thumbnail_chunks(facts.pictures)],
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


def rate_text(images_per_second: float | None) -> str:
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
        "rate": rate_text,
        "weight": weight_text,
    }
    environment.filters |= filters
    environment.globals |= {"data_url": data_url, "picture_link": picture_link}
    return environment


def _shown(facts: ReportFacts) -> dict[str, Any]:
    """What the template writes out, all of it escaped there."""
    weights = facts.recipe.cfg_weights
    return {
        "facts": facts,
        "weights": list(facts.survey.weights),
        "is_sweep": len(weights) > 1,
        "sweep_weights": sorted(weights),
        "sweep_rows": _sweep_rows(facts) if len(weights) > 1 else [],
        "first_pictures": list(enumerate(facts.pictures[:PICTURES_A_PAGE])),
        "num_sampled": sum(picture.is_sampled for picture in facts.pictures),
        "num_unreadable": sum(picture.thumbnail is None for picture in facts.pictures),
        "flags": [*((flag.name, flag.rule) for flag in FLAGS), (LOOKALIKE, LOOKALIKE_RULE)],
        "shown_flags": {name: sum(name in picture.flags for picture in facts.pictures) for name in FLAG_NAMES},
        "statistic_names": report_charts.STATISTIC_NAMES,
        "statistic_tops": STATISTICS,
        "histograms": report_charts.histograms(facts.survey),
        "pace": facts.survey.pace,
        "chart": report_charts.pace_chart(facts.survey.pace),
        "charts": report_charts,
        "version": version("janus-batch"),
        "made_at": datetime.now(UTC),
    }


def _script_data(facts: ReportFacts) -> dict[str, Any]:
    weights = list(facts.survey.weights)
    return {
        "flags": FLAG_NAMES,
        "lookalike": FLAG_NAMES.index(LOOKALIKE),
        "weights": [weight_text(weight) for weight in weights],
        "sweep": [weights.index(weight) for weight in sorted(facts.recipe.cfg_weights)],
        "chunk": CHUNK,
        "picturesAPage": PICTURES_A_PAGE,
        "rowsAPage": SWEEP_ROWS_A_PAGE,
        "images": picture_table(facts.pictures, weights),
    }


def _sweep_rows(facts: ReportFacts) -> list[SweepRow]:
    """The first page of the sweep: prompts down, weights across."""
    columns = {weight: column for column, weight in enumerate(sorted(facts.recipe.cfg_weights))}
    rows: dict[str, SweepRow] = {}
    for number, picture in enumerate(facts.pictures):
        row = picture.row
        if not picture.is_sampled or row["image_index"] or row["cfg_weight"] not in columns:
            continue
        if row["prompt_id"] not in rows and len(rows) == SWEEP_ROWS_A_PAGE:
            break
        empty = SweepRow(prompt_id=row["prompt_id"], prompt=row["prompt"], cells=[None] * len(columns))
        rows.setdefault(row["prompt_id"], empty).cells[columns[row["cfg_weight"]]] = (number, picture)
    return list(rows.values())


def _policy(style: str, script: str) -> str:
    """Only this page's own style and script run; pictures come from the page or from beside it; nothing else loads."""
    return (
        f"default-src 'none'; img-src data: 'self' file:; style-src {_source_hash(style)}; "
        f"script-src {_source_hash(script)}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
