"""The report as one HTML document: facts into the template, style and script inlined, everything else escaped.

The page loads nothing from a network, and its content security policy says so to the browser.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from workflows.flags import BLANK_CONTRAST, FLAG_NAMES, FLAGS, HIGH_CLIPPED_FRACTION, HIGH_SATURATION
from workflows.flags import LOOKALIKE, LOOKALIKE_RULE
from workflows.report_charts import bars_path
from workflows.report_data import CHUNK, clean, data_url, picture_link, picture_table, script_json, thumbnail_chunks
from workflows.report_facts import ReportFacts
from workflows.sample import Picture, thumbnail_size
from workflows.survey import STATISTICS, Survey, WeightFacts

FILES = Path(__file__).parent / "report_files"
PICTURES_A_PAGE, SWEEP_ROWS_A_PAGE = 60, 12
MIN_BARS = 6  # fewer say nothing about how the pace changed
CHART_WIDTH, CHART_HEIGHT = 720, 110
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 128, 36
STATISTIC_NAMES = {
    "mean_saturation": "Saturation",
    "contrast": "Contrast",
    "clipped_fraction": "Clipped fraction",
    "entropy": "Entropy (bits)",
}
THRESHOLDS = {
    "mean_saturation": HIGH_SATURATION,
    "contrast": BLANK_CONTRAST,
    "clipped_fraction": HIGH_CLIPPED_FRACTION,
    "entropy": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """One chart of the statistics: bars as a path, the threshold's place on the x axis, the mean."""

    label: str
    path: str
    threshold_x: float | None
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """A prompt and seed with its picture at each weight of the sweep, None where there is none."""

    number: int  # of the first picture, in the order of all pictures shown
    prompt_id: str
    prompt: str
    cells: list[tuple[int, Picture] | None]


def make_page(facts: ReportFacts) -> str:
    """The whole document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clean": clean, "count": lambda n: f"{n:,}", "weight": weight_text, "duration": duration_text,
        "moment": lambda m: f"{m:%Y-%m-%d %H:%M} UTC", "clock": lambda m: f"{m:%H:%M}", "rate": rate_text,
    }  # fmt: skip
    weights = list(facts.survey.weights)
    style = environment.get_template("page.css").render(
        thumbnail=thumbnail_size(len(facts.pictures)), num_weights=len(facts.recipe.cfg_weights)
    )
    script = (FILES / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        facts=facts,
        style=Markup(style),  # noqa: S704 - our own file with two numbers
        script=Markup(script),  # noqa: S704 - our own file
        policy=_policy(style, script),
        data=Markup(script_json(_script_data(facts, weights))),  # noqa: S704 - made safe by script_json
        chunks=[Markup(script_json(chunk)) for chunk in thumbnail_chunks(facts.pictures)],  # noqa: S704
        weights=weights,
        is_sweep=len(facts.recipe.cfg_weights) > 1,
        sweep_weights=sorted(facts.recipe.cfg_weights),
        sweep_rows=_sweep_rows(facts),
        first_pictures=list(enumerate(facts.pictures[:PICTURES_A_PAGE])),
        num_sampled=sum(picture.is_sampled for picture in facts.pictures),
        num_unreadable=sum(picture.thumbnail is None for picture in facts.pictures),
        flags=[*((flag.name, flag.rule) for flag in FLAGS), (LOOKALIKE, LOOKALIKE_RULE)],
        shown_flags={name: sum(name in picture.flags for picture in facts.pictures) for name in FLAG_NAMES},
        statistic_names=STATISTIC_NAMES,
        statistic_tops=STATISTICS,
        histograms=_histograms(facts.survey),
        pace=facts.survey.pace,
        chart=_pace_chart(facts.survey),
        data_url=data_url,
        picture_link=picture_link,
        version=version("janus-batch"),
        made_at=datetime.now(UTC),
    )


def weight_text(weight: float | None) -> str:
    return "other" if weight is None else f"{weight:g}"


def duration_text(seconds: float) -> str:
    """`45 s`, `2 min 30 s`, `42 min`, `5 h 21 min` or `2 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min" + (f" {int(seconds % 60)} s" if minutes < 10 else "")
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def rate_text(images_per_second: float | None) -> str:
    if images_per_second is None:
        return "–"
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"


def _policy(style: str, script: str) -> str:
    """Only this page's own style and script run; pictures come from the page or from beside it; nothing else loads."""
    return (
        f"default-src 'none'; img-src data: 'self' file:; style-src {_source_hash(style)}; "
        f"script-src {_source_hash(script)}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _script_data(facts: ReportFacts, weights: Sequence[float | None]) -> dict[str, Any]:
    return {
        "flags": FLAG_NAMES,
        "weights": [weight_text(weight) for weight in weights],
        "sweep": [weights.index(weight) for weight in sorted(facts.recipe.cfg_weights)],
        "chunk": CHUNK,
        "picturesAPage": PICTURES_A_PAGE,
        "rowsAPage": SWEEP_ROWS_A_PAGE,
        "images": picture_table(facts.pictures, weights),
    }


def _sweep_rows(facts: ReportFacts) -> list[SweepRow]:
    """The first rows of the sweep: one seed of each prompt, the weights across."""
    weights = sorted(facts.recipe.cfg_weights)
    rows: dict[str, SweepRow] = {}
    for number, picture in enumerate(facts.pictures):
        row, prompt_id = picture.row, picture.row["prompt_id"]
        if len(weights) == 1 or not picture.is_sampled or row["image_index"] or row["cfg_weight"] not in weights:
            continue
        if prompt_id not in rows:
            if len(rows) == SWEEP_ROWS_A_PAGE:
                break
            cells = [None] * len(weights)
            rows[prompt_id] = SweepRow(number=number, prompt_id=prompt_id, prompt=row["prompt"], cells=cells)
        rows[prompt_id].cells[weights.index(row["cfg_weight"])] = (number, picture)
    return list(rows.values())


def _histograms(survey: Survey) -> dict[float | None, dict[str, Histogram]]:
    """By weight and statistic; the bars of one statistic share their scale, so that weights can be compared."""
    full = {weight: facts for weight, facts in survey.weights.items() if facts.num_images}
    tops = {
        name: max((facts.histograms[name].max() / facts.num_images for facts in full.values()), default=1)
        for name in STATISTICS
    }
    return {
        weight: {name: _histogram(weight, name, facts, tops[name]) for name in STATISTICS}
        for weight, facts in full.items()
    }


def _histogram(weight: float | None, name: str, facts: WeightFacts, top: float) -> Histogram:
    mean, threshold = facts.sums[name] / facts.num_images, THRESHOLDS[name]
    shares = (facts.histograms[name] / facts.num_images).tolist()
    return Histogram(
        label=f"{STATISTIC_NAMES[name]} at weight {weight_text(weight)}, mean {mean:.2f}",
        path=bars_path(shares, width=HISTOGRAM_WIDTH, height=HISTOGRAM_HEIGHT, top=top, gap=0.5),
        threshold_x=None if threshold is None else HISTOGRAM_WIDTH * threshold / STATISTICS[name],
        mean=mean,
    )


def _pace_chart(survey: Survey) -> dict[str, Any] | None:
    """Images a second over the time at work; None where the job was too short to show a change."""
    bars = survey.pace.bars()
    if len(bars) < MIN_BARS:
        return None
    rates = [bar.images_per_second for bar in bars]
    step = CHART_WIDTH / len(bars)
    return {
        "path": bars_path(rates, width=CHART_WIDTH, height=CHART_HEIGHT, top=max(rates), gap=min(1.0, step / 4)),
        "width": CHART_WIDTH,
        "height": CHART_HEIGHT,
        "top": max(rates),
        "bar_seconds": bars[0].seconds,
        "start": bars[0].start,
        "stop": survey.pace.runs()[-1].stopped_at,
        "pauses": [(index * step, bar.after_pause) for index, bar in enumerate(bars) if bar.after_pause],
    }
