"""Numbers, durations and moments as the pages write them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


def duration_text(seconds: float) -> str:
    """`4.2 s`, `45 s`, `2 min 30 s`, `42 min`, `5 h 21 min` or `2 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min" + (f" {int(seconds % 60)} s" if minutes < 10 else "")
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def setting_text(value: object) -> str:
    """A value of a recipe: `none`, `0.7`, `1, 5` for several, or `best_of 4, is_own True` for a section."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting_text(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def weight_text(weight: float | None) -> str:
    return "other" if weight is None else f"{weight:g}"


def throughput_text(images_per_second: float | None) -> str:
    """A dash for a job that is shorter than two batches."""
    if images_per_second is None:
        return "–"
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"


def moment_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def count_text(number: int) -> str:
    return f"{number:,}"
