"""The charts of a report as SVG path data: histograms of statistics and scores by weight, throughput over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from workflows.output.throughput import Throughput
from workflows.report.quality_rules import BLANK_CONTRAST, HIGH_CLIPPED_FRACTION, HIGH_SATURATION
from workflows.report.survey import NUM_BINS, STATISTICS, Survey, WeightFacts

HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 128, 36
THROUGHPUT_WIDTH, THROUGHPUT_HEIGHT = 720, 110
MIN_BARS = 6  # fewer bars show no change
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
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """A statistic at one weight: its bars, the x of the quality rule's threshold, and the mean of the statistic."""

    path: str
    threshold_x: float | None
    mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreChart:
    """The scores at one weight: their bars between `lowest` and `highest`, their number and mean."""

    path: str
    num_images: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughputChart:
    """Images per second over the rendering time. `pauses` holds the x and the length in seconds of each pause."""

    path: str
    highest: float
    bar_seconds: int
    start: datetime
    stop: datetime
    pauses: list[tuple[float, float]]


def histograms(survey: Survey) -> dict[float | None, dict[str, Histogram]]:
    """By weight and statistic. The histograms of one statistic share a scale, so that weights can be compared."""
    weights = {weight: facts for weight, facts in survey.weights.items() if facts.num_images}
    highest = {
        name: max((facts.histograms[name].max() / facts.num_images for facts in weights.values()), default=1.0)
        for name in STATISTICS
    }
    return {
        weight: {name: _histogram(name, facts, highest[name]) for name in STATISTICS}
        for weight, facts in weights.items()
    }


def score_charts(survey: Survey) -> dict[str, dict[float | None, ScoreChart]]:
    """By score and weight. The histograms of a score share the axes."""
    names = sorted({name for facts in survey.weights.values() for name in facts.scores})
    return {name: _score_charts(survey, name) for name in names}


def _score_charts(survey: Survey, name: str) -> dict[float | None, ScoreChart]:
    values = {
        weight: np.concatenate(facts.scores[name], dtype=np.float64)
        for weight, facts in survey.weights.items()
        if name in facts.scores
    }
    values = {weight: found for weight, found in values.items() if len(found)}
    if not values:
        return {}
    lowest, highest = min(found.min() for found in values.values()), max(found.max() for found in values.values())
    if lowest >= 0 and highest <= 1:
        lowest, highest = 0.0, 1.0  # a probability
    limits = (lowest, highest if highest > lowest else lowest + max(1.0, abs(lowest)))
    shares = {weight: np.histogram(found, NUM_BINS, limits)[0] / len(found) for weight, found in values.items()}
    top = max(share.max() for share in shares.values())
    return {
        weight: ScoreChart(
            path=_histogram_path(shares[weight].tolist(), top),
            num_images=len(found),
            mean=float(found.mean(dtype=np.float64)),
            lowest=float(lowest),
            highest=float(highest),
        )
        for weight, found in values.items()
    }


def throughput_chart(throughput: Throughput) -> ThroughputChart | None:
    """None for a job that is too short to show a change."""
    bars = throughput.bars()
    if len(bars) < MIN_BARS:
        return None
    values = [bar.images_per_second for bar in bars]
    step = THROUGHPUT_WIDTH / len(bars)
    return ThroughputChart(
        path=bars_path(
            values, width=THROUGHPUT_WIDTH, height=THROUGHPUT_HEIGHT, highest=max(values), gap=min(1.0, step / 4)
        ),
        highest=max(values),
        bar_seconds=bars[0].seconds,
        start=throughput.runs()[0].started_at,
        stop=throughput.runs()[-1].stopped_at,
        pauses=[(index * step, bar.after_pause) for index, bar in enumerate(bars) if bar.after_pause],
    )


def bars_path(values: Sequence[float], *, width: float, height: float, highest: float, gap: float) -> str:
    """Bars side by side at the bottom of a `width` x `height` box; a bar of the value `highest` fills the height.

    Every value above 0 gets at least one unit of height, so that a rare image stays visible.
    """
    step, parts = width / max(len(values), 1), []
    for index, value in enumerate(values):
        if value > 0:
            bar = max(height * value / highest, 1.0)
            parts.append(f"M{_short(index * step)} {_short(height)}v-{_short(bar)}h{_short(step - gap)}v{_short(bar)}z")
    return "".join(parts)


def _histogram(name: str, facts: WeightFacts, highest: float) -> Histogram:
    shares = (facts.histograms[name] / facts.num_images).tolist()
    threshold = THRESHOLDS.get(name)
    return Histogram(
        path=_histogram_path(shares, highest),
        threshold_x=None if threshold is None else HISTOGRAM_WIDTH * threshold / STATISTICS[name],
        mean=facts.sums[name] / facts.num_images,
    )


def _histogram_path(shares: Sequence[float], highest: float) -> str:
    return bars_path(shares, width=HISTOGRAM_WIDTH, height=HISTOGRAM_HEIGHT, highest=highest, gap=0.5)


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
