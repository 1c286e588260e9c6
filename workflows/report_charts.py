"""The charts of a report as SVG path data. No numbers are computed here and no markup is written."""

from __future__ import annotations

from collections.abc import Sequence


def bars_path(values: Sequence[float], *, width: float, height: float, top: float, gap: float = 0.0) -> str:
    """Bars side by side on the bottom line of a `width` x `height` box; a bar of the value `top` fills it.

    Every value above 0 is at least one unit high: a rare picture must not look like none.
    """
    step = width / max(len(values), 1)
    parts = []
    for index, value in enumerate(values):
        if value > 0:
            bar = max(height * value / top, 1.0)
            parts.append(f"M{_short(index * step)} {_short(height)}v-{_short(bar)}h{_short(step - gap)}v{_short(bar)}z")
    return "".join(parts)


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
