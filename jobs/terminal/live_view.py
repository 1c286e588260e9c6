"""The live view of a job in a terminal: a bar, the counts, and a row for each slot as far as there is room."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.terminal.lines import look_parts
from jobs.terminal.text import clock_text, counted
from workflows.dispatch.progress import Progress, Slot

STYLES = {
    "rendering": "green",
    "idle": "cyan",
    "loading": "yellow",
    "starting": "yellow",
    "waiting": "dim",
    "lost": "bold red",
    "ended": "dim",
}
FIRST_SHOWN = ("lost", "starting", "loading", "idle", "rendering")  # if not all slots fit
WIDE, WIDEST_BAR = 72, 60
OTHER_LINES = 8  # of the view, and lines already printed above it


def live_view(progress: Progress, width: int, height: int) -> Group:
    """The view at this moment, no wider or higher than the terminal."""
    slots = list(progress.slots)
    shown = _choose(slots, max(3, height - OTHER_LINES))
    parts: list[RenderableType] = [_bar(progress, width), _counts(progress)]
    if shown:
        parts.append(_table(shown, width))
    if rest := _rest(slots, shown):
        parts.append(_line(rest, "dim"))
    if progress.last_trouble_at is not None:
        moment = time.strftime("%H:%M:%S", time.localtime(progress.last_trouble_at))
        parts.append(_line(f"last trouble {moment}  {progress.last_trouble}", "red"))
    return Group(*parts)


def _bar(progress: Progress, width: int) -> Table:
    total, done = max(progress.num_images_total, 1), progress.num_done
    counts = f"{done:,}/{counted(progress.num_images_total, 'image')}  {100 * min(done, total) // total} %"
    row = Table.grid(padding=(0, 2, 0, 0))
    room = width - len(counts) - 4
    cells = [ProgressBar(total=total, completed=min(done, total), width=min(room, WIDEST_BAR))] if room >= 10 else []
    row.add_row(*cells, Text(counts, style="bold", no_wrap=True, overflow="ellipsis"))
    return row


def _counts(progress: Progress) -> Text:
    """Several counts; a narrow terminal wraps between them, not within one."""
    parts = []
    if progress.rendering_since is not None:
        parts.append(f"{progress.images_per_second_now:.2f} images/s")
        parts.append(f"ETA {clock_text(progress.eta_seconds)}")
    parts.append(f"{clock_text(progress.seconds)} so far")
    parts.append(f"{progress.num_rejected:,} rejected")
    parts += look_parts(progress)
    parts.append(counted(progress.num_retries, "retry", "retries"))
    if progress.num_actors_lost:
        parts.append(counted(progress.num_actors_lost, "actor lost", "actors lost"))
    return Text(" · ".join(part.replace(" ", "\u00a0") for part in parts))


def _choose(slots: list[Slot], num_rows: int) -> list[Slot]:
    """The slots to show a row of, those in trouble first; never those that wait for room or have ended."""
    listed = [slot for slot in slots if slot.state in FIRST_SHOWN]
    first = sorted(listed, key=lambda slot: FIRST_SHOWN.index(slot.state))[:num_rows]
    return sorted(first, key=lambda slot: slot.number)


def _rest(slots: list[Slot], shown: list[Slot]) -> str:
    """`and 3 waiting for room on the cluster, 50 rendering`."""
    numbers = {slot.number for slot in shown}
    counts = Counter(slot.state for slot in slots if slot.number not in numbers)
    words = {"waiting": "waiting for room on the cluster", "ended": "done"}
    rest = ", ".join(f"{num} {words.get(state, state)}" for state, num in counts.items())
    return rest and (f"and {rest}" if shown else rest)


def _table(slots: list[Slot], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    is_wide = width >= WIDE
    for slot in slots:
        cells = [Text(f"{slot.number:>3}", style="dim"), Text(f"{slot.state:<9}", style=STYLES[slot.state])]
        throughput = f"{slot.images_per_second:.2f}/s" if slot.state in ("rendering", "idle") else ""
        images = f"{slot.num_images:>7,} images" if is_wide else f"{slot.num_images:>6,}"
        cells += [Text(f"{throughput:>9}"), Text(images)]
        if is_wide:
            about = slot.trouble if slot.state == "lost" else _device_text(slot)
            cells.append(Text(about, no_wrap=True, overflow="ellipsis"))
        table.add_row(*cells)
    return table


def _device_text(slot: Slot) -> str:
    replaced = f", replaced {slot.num_failures}x" if slot.num_failures else ""
    return f"{slot.device} on {slot.node[:8]}{replaced}" if slot.device else replaced.removeprefix(", ")


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
