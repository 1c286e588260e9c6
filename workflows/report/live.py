"""report.html of a job that is running: refreshed on the cluster, next to the actors, with the newest images first.

The work takes a small share of the time, ends no job, and is killed where it is when the last shard is committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.dispatch.cluster import Cluster
from workflows.dispatch.progress import Progress
from workflows.dispatch.side_task import SideTask
from workflows.job import RenderJob
from workflows.output.claim import read_claim
from workflows.output.images import WrittenBatch
from workflows.output.manifest import PartKind, committed_parts, marks_of, own_schema
from workflows.output.remaining import Completion
from workflows.report.page import LiveFacts, ReportFacts, make_page
from workflows.report.rejections import collect_rejections
from workflows.report.scores import JUDGE_COLUMN, Scores
from workflows.report.selection import (
    BULK_COLUMNS,
    SelectedImage,
    Selection,
    images_of,
    read_images,
    with_thumbnails,
)
from workflows.report.survey import Survey, survey_manifest
from workflows.report.write import REPORT_FILE
from workflows.side_work import in_background, side_work
from workflows.storage.errors import storage_errors
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage, is_draft

NOT_REFRESHED = "the report was not refreshed"
MAX_IMAGES = 300  # the newest ones
FIRST_SECONDS, SHORTEST_SECONDS, POLL_SECONDS = 5.0, 10.0, 0.5
SHARE = 1 / 20  # of the time that one process spends on the page
LONGEST_RELOAD_SECONDS = 60.0


@contextmanager
def refreshing_report(
    job: RenderJob, cluster: Cluster, progress: Progress, say: Callable[[str], None], on_page: Callable[[str], None]
) -> Iterator[None]:
    """Refresh the report while the block runs. `on_page` gets its URL when it is there for the first time."""
    refresh = _Refresh(job, cluster, progress, say, on_page)
    with in_background(NOT_REFRESHED, say, refresh.run):
        yield


class _Refresh:
    """The thread of the driver that starts a task for each refresh. It sees counts and references only."""

    def __init__(
        self,
        job: RenderJob,
        cluster: Cluster,
        progress: Progress,
        say: Callable[[str], None],
        on_page: Callable[[str], None],
    ) -> None:
        self._job, self._cluster, self._progress = job, cluster, progress
        self._say, self._on_page = say, on_page
        self._pause_seconds, self._is_shown, self._failures = SHORTEST_SECONDS, False, set[str]()

    def run(self, stop: threading.Event) -> None:
        """Refresh the page again and again until the event is set."""
        next_at, seen = time.monotonic() + FIRST_SECONDS, (0, 0, 0, 0)
        while not stop.wait(POLL_SECONDS):
            state = self._state()
            is_due = time.monotonic() >= next_at and (state != seen or not self._is_shown)
            if is_due or (self._is_shown and state[0] and not seen[0]):  # the first images are shown at once
                with side_work(NOT_REFRESHED, self._say_once):
                    self._refresh(stop)
                next_at, seen = time.monotonic() + self._pause_seconds, state

    def _state(self) -> tuple[int, int, int, int]:
        """What a page shows that can change."""
        progress = self._progress
        return progress.num_images, progress.num_shards, progress.num_rejected, progress.num_actors

    def _refresh(self, stop: threading.Event) -> None:
        job, live, newest = self._job, self._facts(), list(self._progress.newest)
        task = self._cluster.side_task(write_live_report, job.output, job.storage, live, *newest)
        while not task.wait(POLL_SECONDS):
            if stop.is_set():
                self._end(task)
                return
        self._pause_seconds = max(SHORTEST_SECONDS, task.result() / SHARE)
        if not self._is_shown:
            self._is_shown = True
            self._on_page(f"{job.output}/{REPORT_FILE}")

    def _facts(self) -> LiveFacts:
        progress, seconds = self._progress, self._pause_seconds
        return LiveFacts(
            num_images=progress.num_images_before + progress.num_images,
            num_total=progress.num_images_total,
            num_left=max(0, progress.num_images_total - progress.num_done),
            num_actors=progress.num_actors,
            images_per_second=progress.images_per_second_now if progress.num_images else None,
            eta_seconds=progress.eta_seconds,
            written_at=datetime.now(UTC),
            reload_seconds=min(seconds, LONGEST_RELOAD_SECONDS),
            stale_seconds=60 + 3 * seconds,
        )

    def _end(self, task: SideTask[float]) -> None:
        """End a refresh that the end of the job overtakes, with the file that it may have begun."""
        task.end()
        task.wait(POLL_SECONDS)
        storage = Storage(self._job.output, self._job.storage)
        if storage.is_local:
            for name in filter(is_draft, storage.names("")):
                if name.startswith(f".{REPORT_FILE}."):
                    storage.remove(name)

    def _say_once(self, line: str) -> None:
        if line not in self._failures:
            self._failures.add(line)
            self._say(line)


def write_live_report(url: str, options: dict[str, Any], live: LiveFacts, *newest: WrittenBatch) -> float:
    """Write the report of a running job; how many seconds that took. `newest` are batches that may not be committed."""
    started_at = time.monotonic()
    with storage_errors(url):
        storage = Storage(url, options)
        page = make_page(_gather(storage, live, newest)).encode()
        storage.write(REPORT_FILE, page)
    return time.monotonic() - started_at


def _gather(storage: Storage, live: LiveFacts, newest: Sequence[WrittenBatch]) -> ReportFacts:
    claim, parts = read_claim(storage), committed_parts(storage)
    survey = survey_manifest(storage, parts, claim.recipe.cfg_weights)
    selection = _newest_parts(survey, num_seeds=claim.recipe.images_per_prompt)
    images = _newest_images(survey, read_images(storage, selection, survey.near_duplicates), newest)
    packed = {name: data for batch in newest for name, data in batch.packed.items()}
    return ReportFacts(
        url=storage.url,
        command_output=output_arguments(storage.url, storage.options),
        claim=claim,
        completion=Completion(is_marked=False, num_missing=None),
        survey=survey,
        rejections=collect_rejections(storage, parts),
        selection=selection,
        images=with_thumbnails(storage, images, packed),
        live=live,
    )


def _newest_parts(survey: Survey, *, num_seeds: int) -> Selection:
    """Every image of the parts that were committed last."""
    prompts: dict[str, list[int]] = {}
    num_images = 0
    for shard in sorted(survey.shards, key=lambda shard: shard.last_at, reverse=True):
        if num_images >= MAX_IMAGES:
            break
        prompts[shard.shard_id] = list(range(shard.num_prompts))
        num_images += shard.num_images
    return Selection(prompts=prompts, num_seeds=num_seeds, matched_rows={})


def _newest_images(
    survey: Survey, committed: list[SelectedImage], newest: Sequence[WrittenBatch]
) -> list[SelectedImage]:
    """The newest images of both, the last one first. A committed image counts once."""
    rows = [row for batch in newest for row in batch.rows]
    kind: PartKind = "judged" if any(JUDGE_COLUMN in row for row in rows) else "images"
    schema = own_schema(kind).with_metadata(marks_of(kind))
    table = pa.Table.from_pylist([{**row, **dict.fromkeys(BULK_COLUMNS)} for row in rows], schema)
    everything, scores = np.arange(table.num_rows), Scores.of_manifest(table)
    written = images_of(table, everything, np.ones(table.num_rows, bool), scores, survey.near_duplicates)
    images = {image.row["image_id"]: image for image in [*written, *committed]}
    return sorted(images.values(), key=lambda image: image.row["created_at"], reverse=True)[:MAX_IMAGES]
