"""Words for people: counts, and lines of the job's log."""

from __future__ import annotations

import json
import sys
from typing import Any

from actors.errors import InputError, JobFailure
from actors.recipe import Judge


def failure_text(error: InputError | JobFailure) -> str:
    """The lines that end a run which failed, for standard error."""
    text = f"{error}\n{error.advice}" if isinstance(error, JobFailure) else str(error)
    return "".join(f"janus-batch: {line}\n" for line in text.splitlines())


def say(line: str) -> None:
    """Print a line of the job's log, on standard error: standard output stays free for programs."""
    print(line, file=sys.stderr, flush=True)


def print_json(facts: dict[str, Any]) -> None:
    """Print facts for programs as one line on standard output, unbuffered."""
    sys.stdout.write(json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def counted(number: int, one: str, many: str = "") -> str:
    """`1 shard`, `1,204 shards`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def throughput_text(images_per_second: float | None) -> str:
    """A dash for a run that is shorter than two batches."""
    return "–" if images_per_second is None else f"{images_per_second:,.2f}"


def clock_text(seconds: float | None) -> str:
    """`h:mm:ss` or `mm:ss`."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def judge_line(judge: Judge) -> str:
    """`janus-shapes, best of 4, re-rolled below 0.5 up to 3 tries, with captions`."""
    parts = [judge.checkpoint, f"best of {judge.best_of}" if judge.best_of > 1 else "scores only"]
    if judge.retry_below is not None:
        parts.append(f"re-rolled below {judge.retry_below:g}, up to {judge.max_tries} tries")
    if judge.caption_tokens is not None:
        parts.append("with captions")
    return ", ".join(parts)
