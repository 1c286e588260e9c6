"""The contestants of `benchmarks/engine.py` timed in turn, and the rows of the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

SCRIPT_IMAGES = 16  # that the public script renders in a call

HEAD = """
| model | dtype | images | ours | public loop | ratio | generate | ratio | limit | reached |
|:------|:------|-------:|-----:|------------:|------:|---------:|------:|------:|--------:|"""

Render = Callable[[], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table: the contestants' renders of one batch, and the seconds the device needs at best."""

    model: str
    dtype: str
    num_images: int
    ours: Render
    public_loop: Render
    generate: Render | None
    limit_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A row's figures. `seconds` has no entry for a contestant that does not exist or ran out of memory."""

    model: str
    dtype: str
    num_images: int
    limit_s: float
    seconds: dict[str, float]

    def rate(self, name: str) -> float | None:
        """Images a second."""
        return self.num_images / self.seconds[name] if name in self.seconds else None


def measure(case: Case, num_rounds: int, device: torch.device, clock: Callable[[], float]) -> Result:
    """Median seconds of each contestant, taken in turn, after one untimed render of each."""
    contestants = {"ours": case.ours, "public_loop": case.public_loop, "generate": case.generate}
    seconds: dict[str, list[float]] = {name: [] for name, render in contestants.items() if render is not None}
    for is_timed in [False, *[True] * num_rounds]:
        for name in list(seconds):
            started_at = clock()
            try:
                contestants[name]()
            except torch.OutOfMemoryError:
                if name == "ours":
                    raise
                del seconds[name]
                torch.cuda.empty_cache()
                continue
            if device.type == "cuda":
                torch.cuda.synchronize()
            if is_timed:
                seconds[name].append(clock() - started_at)
    return Result(
        model=case.model,
        dtype=case.dtype,
        num_images=case.num_images,
        limit_s=case.limit_s,
        seconds={name: statistics.median(times) for name, times in seconds.items()},
    )


def table_row(result: Result) -> str:
    ours = result.seconds["ours"]

    def rate(name: str) -> str:
        return f"{result.rate(name):.3g}" if name in result.seconds else "-"

    def ratio(name: str) -> str:
        return f"{result.seconds[name] / ours:.2f}" if name in result.seconds else "-"

    return (
        f"| {result.model} | {result.dtype} | {result.num_images} | {rate('ours')} | {rate('public_loop')} "
        f"| {ratio('public_loop')} | {rate('generate')} | {ratio('generate')} "
        f"| {result.num_images / result.limit_s:.3g} | {result.limit_s / ours:.0%} |"
    )


def over_the_script(results: Iterable[Result]) -> list[str]:
    """A line for each model that was timed with the script's own number of images: our best batch over that."""
    by_model: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_model.setdefault((result.model, result.dtype), []).append(result)
    lines = []
    for (model, dtype), rows in by_model.items():
        script = next((row.rate("public_loop") for row in rows if row.num_images == SCRIPT_IMAGES), None)
        best = max(rows, key=lambda row: row.rate("ours") or 0.0)
        if script:
            lines.append(
                f"{model}, {dtype}: ours at {best.num_images} images is {best.rate('ours') / script:.2f} times the "
                f"public loop at {SCRIPT_IMAGES}, as many as its script renders in a call"
            )
    return lines
