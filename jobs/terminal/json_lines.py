"""The facts about a job for programs: one JSON object per line on standard output, and nothing else there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.terminal.text import print_json
from workflows.dispatch.progress import Progress, Slot
from workflows.run import Result


@contextmanager
def failure_as_json(job: str, output: str) -> Iterator[None]:
    """If the block raises, print the reason as the last line; the error is passed on."""
    try:
        yield
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        print_json({"event": "failed", "job": job, "output": output, "error": reason})
        raise


def progress_facts(progress: Progress) -> dict[str, Any]:
    """The current counts. `images_per_second` is over the last minutes; `eta_seconds` is null while it is unknown."""
    eta = progress.eta_seconds
    return {
        "job": progress.name,
        "seconds": round(progress.seconds, 1),
        "num_images_total": progress.num_images_total,
        "num_images_before": progress.num_images_before,
        "num_images": progress.num_images,
        "num_rejected": progress.num_rejected,
        "num_bytes": progress.num_bytes,
        **_look_facts(progress),
        "num_shards": progress.num_shards,
        "num_shards_total": progress.num_shards_total,
        "num_retries": progress.num_retries,
        "num_actors_lost": progress.num_actors_lost,
        "last_trouble": progress.last_trouble or None,
        "images_per_second": round(progress.images_per_second_now, 4),
        "eta_seconds": None if eta is None else round(eta, 1),
        "actors": [_slot_facts(slot) for slot in list(progress.slots)],
    }


def result_facts(result: Result) -> dict[str, Any]:
    """What the output holds now, and what this run added to it."""
    return {
        "job": result.job.name,
        "output": result.job.output,
        "num_images": result.tally.num_images,
        "num_rejected": result.tally.num_rejected,
        "num_shards": result.tally.num_shards,
        "seconds": round(result.seconds, 1),
        "phases": {phase.replace(" ", "_").lower(): round(seconds, 1) for phase, seconds in result.phases.items()},
        "this_run": {
            "num_images": result.progress.num_images,
            "num_bytes": result.progress.num_bytes,
            **_look_facts(result.progress),
            "num_retries": result.progress.num_retries,
            "num_actors_lost": result.progress.num_actors_lost,
            "images_per_second": _rounded(result.progress.images_per_second),
        },
    }


def _rounded(images_per_second: float | None) -> float | None:
    return None if images_per_second is None else round(images_per_second, 4)


def _look_facts(progress: Progress) -> dict[str, Any]:
    """What the job's judge cost; zeros if it has none."""
    return {
        "num_candidates": progress.num_candidates,
        "num_rerolls": progress.num_rerolls,
        "looking_seconds": round(progress.looking_seconds, 3),
    }


def _slot_facts(slot: Slot) -> dict[str, Any]:
    return {
        "slot": slot.number,
        "state": slot.state,
        "device": slot.device or None,
        "node": slot.node or None,
        "num_images": slot.num_images,
        "images_per_second": round(slot.images_per_second, 4),
        "num_failures": slot.num_failures,
        "trouble": slot.trouble or None,
    }
