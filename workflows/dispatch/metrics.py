"""Metrics for Ray's dashboard and Prometheus, `ray_janus_batch_*` at every node's metrics port.

Each process of a job (driver, actors, writers) reports its own events, tagged with the job's name. The driver's own
counters are in `progress`; no decision depends on a metric, and one that Ray does not take ends no job.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from workflows.dispatch.progress import Progress
from workflows.side_work import in_background, side_work

Kind = TypeVar("Kind", bound=Metric)

TAGS = ("job_name",)
FAILURE = "a metric was not reported"
REPORT_SECONDS = 5.0
SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160]
SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]

# Name: kind, description, boundaries of a histogram.
METRICS: dict[str, tuple[type[Metric], str, list[float]]] = {
    "janus_batch_images": (Counter, "Images written to storage.", []),
    "janus_batch_image_bytes": (Counter, "Bytes of the images written to storage.", []),
    "janus_batch_rejected": (Counter, "Images that were rejected.", []),
    "janus_batch_shards": (Counter, "Shards committed.", []),
    "janus_batch_retries": (Counter, "Shards retried after a failure.", []),
    "janus_batch_actors_lost": (Counter, "Actors that were lost and replaced.", []),
    "janus_batch_candidates": (Counter, "Candidates rendered and looked at, for the images of a job with a judge.", []),
    "janus_batch_rerolls": (Counter, "Further tries of images that scored too low.", []),
    "janus_batch_look_seconds": (Histogram, "Seconds to score or caption the images of one batch.", SECONDS),
    "janus_batch_batch_seconds": (Histogram, "Seconds to render one batch.", SECONDS),
    "janus_batch_batch_fill": (Histogram, "Images in a batch as a share of the batch size.", SHARES),
    "janus_batch_queue_depth": (Gauge, "Images queued in an actor for the next batch.", []),
    "janus_batch_write_seconds": (Histogram, "Seconds to encode and write one batch.", SECONDS),
    "janus_batch_commit_seconds": (Histogram, "Seconds to commit a shard after its images are written.", SECONDS),
    "janus_batch_actors": (Gauge, "Actors with a loaded model.", []),
    "janus_batch_images_left": (Gauge, "Images not rendered yet.", []),
}


def count(name: str, job: str, number: float) -> None:
    """Add to a counter."""
    with side_work(FAILURE, _warn_once):
        _metric(name, Counter).inc(number, _tags(job))


def observe(name: str, job: str, value: float) -> None:
    """Add a value to a histogram."""
    with side_work(FAILURE, _warn_once):
        _metric(name, Histogram).observe(value, _tags(job))


def show(name: str, job: str, value: float) -> None:
    """Set a gauge."""
    with side_work(FAILURE, _warn_once):
        _metric(name, Gauge).set(value, _tags(job))


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Report a driver's progress while the block runs, and at its end."""
    with in_background(FAILURE, _warn_once, _ProgressMetrics(progress).run):
        yield


class _ProgressMetrics:
    """What was reported of a driver's progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._reported = progress, Counts[str]()

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(REPORT_SECONDS):
            self._report()
        self._report()

    def _report(self) -> None:
        job = self._progress.name
        for name, number in self._counts().items():
            if number > self._reported[name]:  # the progress falls when an attempt fails, a counter must not
                count(name, job, number - self._reported[name])
                self._reported[name] = number
        show("janus_batch_actors", job, self._progress.num_actors)
        show("janus_batch_images_left", job, max(0, self._progress.num_images_total - self._progress.num_done))

    def _counts(self) -> dict[str, int]:
        progress = self._progress
        return {
            "janus_batch_images": progress.num_images,
            "janus_batch_image_bytes": progress.num_bytes,
            "janus_batch_rejected": progress.num_rejected,
            "janus_batch_candidates": progress.num_candidates,
            "janus_batch_rerolls": progress.num_rerolls,
            "janus_batch_shards": progress.num_shards,
            "janus_batch_retries": progress.num_retries,
            "janus_batch_actors_lost": progress.num_actors_lost,
        }


@contextmanager
def timed(name: str, job: str) -> Iterator[None]:
    """Add the seconds that the block takes to a histogram; a block that raises does not count."""
    start = time.monotonic()
    yield
    observe(name, job, time.monotonic() - start)


def _tags(job: str) -> dict[str, str]:
    """Ray's metrics take ASCII tags only: `café` becomes `caf\\xe9`."""
    return {"job_name": job.encode("ascii", "backslashreplace").decode()}


@functools.cache
def _warn_once(line: str) -> None:
    """Log a line, once in this process."""
    logging.getLogger(__name__).warning(line)


def _metric(name: str, kind: type[Kind]) -> Kind:
    metric = _registered(name)
    assert isinstance(metric, kind), f"{name} is not a {kind.__name__}"
    return metric


@functools.cache
def _registered(name: str) -> Metric:
    """One object per process: Ray registers a metric when its object is made."""
    kind, description, boundaries = METRICS[name]
    options = {"boundaries": boundaries} if kind is Histogram else {}
    return kind(name, description=description, tag_keys=TAGS, **options)
