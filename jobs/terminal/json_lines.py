"""The progress of a job and its end for programs: one JSON object a line on standard output, nothing else there."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workflows.dispatch.progress import Place, Progress


def print_json(facts: dict[str, Any]) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def failure_as_json(job: str, output: str) -> Iterator[None]:
    """A job that ends without its sums says so on its last line, and why; the error is passed on."""
    try:
        yield
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        print_json({"event": "failed", "job": job, "output": output, "error": reason})
        raise


def progress_facts(progress: Progress) -> dict[str, Any]:
    """The numbers of this moment. `images_per_second` is of the last minutes, `eta_seconds` null where not known."""
    eta = progress.eta_seconds
    return {
        "job": progress.name,
        "seconds": round(time.monotonic() - progress.started_at, 1),
        "num_images_total": progress.num_images_total,
        "num_images_before": progress.num_images_before,
        "num_images": progress.num_images,
        "num_rejected": progress.num_rejected,
        "num_bytes": progress.num_bytes,
        "num_shards": progress.num_shards,
        "num_shards_total": progress.num_shards_total,
        "num_retries": progress.num_retries,
        "num_actors_lost": progress.num_painters_lost,
        "last_trouble": progress.last_trouble or None,
        "images_per_second": round(progress.images_per_second_now, 4),
        "eta_seconds": None if eta is None else round(eta, 1),
        "actors": [_place_facts(place) for place in list(progress.places)],
    }


def _place_facts(place: Place) -> dict[str, Any]:
    return {
        "place": place.number,
        "state": place.state,
        "device": place.device or None,
        "node": place.node or None,
        "num_images": place.num_images,
        "images_per_second": round(place.images_per_second, 4),
        "num_losses": place.num_losses,
        "trouble": place.trouble or None,
    }
