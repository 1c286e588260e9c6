"""The live view of a job in a terminal: a bar, the numbers, and the state of each actor, in the room there is."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.terminal.text import counted
from workflows.dispatch.progress import Place, Progress

STYLES = {
    "painting": "green",
    "idle": "cyan",
    "loading": "yellow",
    "starting": "yellow",
    "waiting": "dim",
    "lost": "bold red",
    "ended": "dim",
}
FIRST_SHOWN = ("lost", "starting", "loading", "idle", "painting")  # where there is no room for all
WIDE, WIDEST_BAR = 72, 60
OTHER_LINES = 8  # of the view, and what stood above it


def live_view(progress: Progress, width: int, height: int) -> Group:
    """What is drawn for this moment, no wider or higher than the terminal."""
    places = list(progress.places)
    shown = _choose(places, max(3, height - OTHER_LINES))
    parts: list[RenderableType] = [_bar(progress, width), _numbers(progress)]
    if shown:
        parts.append(_table(shown, width))
    if rest := _rest(places, shown):
        parts.append(_line(rest, "dim"))
    if progress.last_trouble_at is not None:
        moment = time.strftime("%H:%M:%S", time.localtime(progress.last_trouble_at))
        parts.append(_line(f"last trouble {moment}  {progress.last_trouble}", "red"))
    return Group(*parts)


def clock_text(seconds: float | None) -> str:
    """`h:mm:ss` or `mm:ss`."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _bar(progress: Progress, width: int) -> Table:
    total, done = max(progress.num_images_total, 1), progress.num_done
    counts = f"{done:,}/{counted(progress.num_images_total, 'image')}  {100 * min(done, total) // total} %"
    row = Table.grid(padding=(0, 2, 0, 0))
    room = width - len(counts) - 4
    cells = [ProgressBar(total=total, completed=min(done, total), width=min(room, WIDEST_BAR))] if room >= 10 else []
    row.add_row(*cells, Text(counts, style="bold", no_wrap=True, overflow="ellipsis"))
    return row


def _numbers(progress: Progress) -> Text:
    """Parts that a narrow terminal wraps between, not within."""
    parts = []
    if progress.painting_since is not None:
        parts.append(f"{progress.images_per_second_now:.2f} images/s")
        parts.append(f"ETA {clock_text(progress.eta_seconds)}")
    parts.append(f"{clock_text(time.monotonic() - progress.started_at)} so far")
    parts.append(f"{progress.num_rejected:,} rejected")
    parts.append(counted(progress.num_retries, "retry", "retries"))
    if progress.num_painters_lost:
        parts.append(counted(progress.num_painters_lost, "actor lost", "actors lost"))
    return Text(" · ".join(part.replace(" ", "\u00a0") for part in parts))


def _choose(places: list[Place], num_rows: int) -> list[Place]:
    """The actors to show a row of: those that are not well first, those that wait for room or are done last."""
    told = [place for place in places if place.state in FIRST_SHOWN]
    first = sorted(told, key=lambda place: FIRST_SHOWN.index(place.state))[:num_rows]
    return sorted(first, key=lambda place: place.number)


def _rest(places: list[Place], shown: list[Place]) -> str:
    """`and 3 waiting for room on the cluster, 50 painting`."""
    numbers = {place.number for place in shown}
    counts = Counter(place.state for place in places if place.number not in numbers)
    words = {"waiting": "waiting for room on the cluster", "ended": "done"}
    told = ", ".join(f"{num} {words.get(state, state)}" for state, num in counts.items())
    return told and (f"and {told}" if shown else told)


def _table(places: list[Place], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    is_wide = width >= WIDE
    for place in places:
        facts = [Text(f"{place.number:>3}", style="dim"), Text(f"{place.state:<8}", style=STYLES[place.state])]
        rate = f"{place.images_per_second:.2f}/s" if place.state in ("painting", "idle") else ""
        facts += [Text(f"{rate:>9}"), Text(f"{place.num_images:>7,} images" if is_wide else f"{place.num_images:>6,}")]
        if is_wide:
            about = place.trouble if place.state == "lost" else _device_text(place)
            facts.append(Text(about, no_wrap=True, overflow="ellipsis"))
        table.add_row(*facts)
    return table


def _device_text(place: Place) -> str:
    losses = f", replaced {place.num_losses}x" if place.num_losses else ""
    return f"{place.device} on {place.node[:8]}{losses}" if place.device else losses.removeprefix(", ")


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
