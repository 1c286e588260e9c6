"""Scores an output: claim the scorer's folder, hold it, score the parts that have no scores yet. It can be resumed."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from actors.understanding.scorers.source import ScorerSource
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.part_actors import run_over_parts
from workflows.dispatch.progress import Progress, Slot
from workflows.job import RenderJob
from workflows.output.manifest import committed_parts, count_rows
from workflows.output.read_ahead import read_ahead
from workflows.scores.columns import settle_columns
from workflows.scores.open import open_scorer
from workflows.scores.parts import Scorer, claim_scores, hold_scores, scored_parts
from workflows.scores.score_part import PartScores, score_part
from workflows.storage.errors import storage_errors, storage_failures
from workflows.storage.retry import wait_for_storage
from workflows.storage.store import Storage


class Show(Protocol):
    """What a scoring run tells whoever started it."""

    def line(self, text: str) -> None:
        """A remark for people."""

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        """Show the progress while the block runs."""


@dataclass(kw_only=True, slots=True)
class Scored:
    """What a run has done: the images and parts that it scored, and the images that had scores before."""

    num_images: int = 0
    num_without_score: int = 0
    num_parts: int = 0
    num_parts_before: int = 0


def score_output(job: RenderJob, scorer: Scorer, source: ScorerSource, cluster: Cluster, show: Show) -> Scored:
    """Score every committed part of the job's output that this scorer has not scored.

    Raises ScoresError, DamagedFileError for an image that is missing or damaged, OutputInUseError if another run holds
    this scorer, and what its model or code raises. Parts committed by then stay committed.
    """
    storage, seconds = Storage(job.output, job.storage), job.workers.storage_retry_seconds
    with hold_scores(storage, scorer.name, say=show.line, retry_seconds=seconds):
        remaining, scored = wait_for_storage(job.output, seconds, show.line, _plan, storage, scorer)
        if remaining:
            show.line("joining the cluster ..." if cluster.is_joined else "starting Ray ...")
            cluster.start()
            with storage_failures(job.output):
                _score(job, scorer, source, cluster, show, remaining, scored)
        wait_for_storage(job.output, seconds, show.line, settle_columns, storage, scorer.name)
    return scored


def _plan(storage: Storage, scorer: Scorer) -> tuple[dict[str, int], Scored]:
    """Claim the scorer's folder. The parts without scores and their numbers of images, and the count of the others."""
    with storage_errors(storage.url):
        claim_scores(storage, scorer)
        parts, before = committed_parts(storage), set(scored_parts(storage, scorer.name))
        unscored = [part for part in parts if part not in before]
        sizes = read_ahead(unscored, lambda part: count_rows(storage, part))
        remaining = {part: size for part, size in zip(unscored, sizes, strict=True) if size}
    return remaining, Scored(num_parts_before=len(before.intersection(parts)))


def _score(
    job: RenderJob,
    scorer: Scorer,
    source: ScorerSource,
    cluster: Cluster,
    show: Show,
    remaining: dict[str, int],
    scored: Scored,
) -> None:
    """Score the remaining parts on actors, and count them in `scored`."""
    progress = Progress(
        name=f"{job.name}, scorer {scorer.name}",
        num_images_total=sum(remaining.values()),
        num_shards_total=len(remaining),
    )

    def on_done(slot: Slot, part: PartScores) -> None:
        scored.num_images += part.num_images
        scored.num_without_score += part.num_without_score
        scored.num_parts += 1
        progress.images_are_written(slot, part.num_images, 0, time.time_ns() // 1000)
        progress.shard_is_committed(part.num_images, part.num_images, 0)

    work = functools.partial(score_part, job, scorer)
    with show.progress(progress):
        run_over_parts(job, cluster, progress, list(remaining), functools.partial(open_scorer, source), work, on_done)
