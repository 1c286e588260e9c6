"""Checks of the judge's columns: candidates, seeds and scores must agree with each other and with job.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from actors.errors import one_line, shown
from actors.noise import candidate_seed, derive_seed
from actors.recipe import Judge

# The judge's settings in job.json, by their columns. They are the same in every row.
SETTINGS = {
    "judge_question": "question",
    "judge_model": "checkpoint",
    "judge_model_revision": "revision",
    "judge_weights_sha256": "weights_sha256",
    "judge_prompt_format": "prompt_format",
    "judge_family": "family",
    "judge_is_own": "is_own",
    "judge_looker": "looker",
}


def check_verdicts(shard_id: str, rows: Sequence[dict[str, Any]], judge: Judge) -> tuple[list[str], set[str]]:
    """Faults of the rows of a shard, and their images."""
    faults, images = [], set()
    for row in rows:
        if fault := next(_faults_of(row, judge), None):
            faults.append(f"image {one_line(row['image_id'])} of shard {shard_id}: {fault}")
            images.add(row["image_id"])
    return faults, images


def _faults_of(row: dict[str, Any], judge: Judge) -> Iterator[str]:
    """What is wrong with a row; later rules may assume earlier ones."""
    for column, name in SETTINGS.items():
        if row.get(column) != getattr(judge, name):  # the rows of a job without a judge have no such column
            yield f"{column} is {shown(row.get(column))}, job.json has {shown(getattr(judge, name))}"
    seeds, scores, kept = row["candidate_seeds"], row["candidate_scores"], row["candidate"]
    if len(seeds) != len(scores) or len(seeds) % judge.best_of or not 0 < len(seeds) <= judge.max_candidates:
        allowed = f"{judge.best_of} for each of at most {judge.max_tries} tries"
        yield f"it has {len(seeds)} candidate_seeds and {len(scores)} candidate_scores, job.json asks for {allowed}"
    if not 0 <= kept < len(scores):
        yield f"candidate is {kept} of {len(scores)}"
    if row["seed"] != seeds[kept]:
        yield f"seed is {row['seed']}, its candidate_seeds have {seeds[kept]} for candidate {kept}"
    yield from _seed_faults(row)
    highest = max((score for score in scores if score is not None), default=None)
    if row["judge_score"] != highest:
        yield f"judge_score is {row['judge_score']}, the highest of its candidate_scores is {highest}"
    if scores.index(highest) != kept:
        yield f"candidate is {kept}, the first with the highest score is {scores.index(highest)}"
    yield from _try_faults(scores, judge)


def _seed_faults(row: dict[str, Any]) -> Iterator[str]:
    """Seeds that break the seed rule, see docs/seed-rule.md."""
    first, *_ = seeds = row["candidate_seeds"]
    if row["row_seed"] is not None and first != derive_seed(row["row_seed"], row["prompt_id"], row["image_index"]):
        yield f"the seed of candidate 0 is {first}, which is not derived from its row_seed"
    for candidate, seed in enumerate(seeds):
        if seed != candidate_seed(first, candidate):
            yield f"the seed of candidate {candidate} is {seed}, which is not derived from that of candidate 0"


def _try_faults(scores: Sequence[float | None], judge: Judge) -> Iterator[str]:
    """Tries that a higher score before them made needless, and tries that are missing."""
    if judge.retry_below is None:
        return

    def highest(num_tries: int) -> float:
        return max((score for score in scores[: num_tries * judge.best_of] if score is not None), default=-1.0)

    num_tries, limit = len(scores) // judge.best_of, f"judge.retry_below is {judge.retry_below}"
    if num_tries > 1 and highest(num_tries - 1) >= judge.retry_below:
        yield f"it was re-rolled after a score of {highest(num_tries - 1):.4g}, {limit}"
    if num_tries < judge.max_tries and highest(num_tries) < judge.retry_below:
        yield f"it was not re-rolled after a score of {highest(num_tries):.4g}, {limit}"
