"""A toy job for tests: its prompt files, its recipe, and its shards rendered in this process, without Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.batcher import Batcher
from actors.recipe import Judge, Look, Recipe
from actors.toy import ToyEngine, ToyLooker
from actors.understanding.engine import LookingEngine
from actors.understanding.judging import JudgingBatcher
from workflows.job import PromptReading, RenderJob
from workflows.looking.rows import read_look_shard
from workflows.output import remaining
from workflows.output.answers import answer_batch
from workflows.output.claim import claim_output
from workflows.output.commit import Receipt, commit_shard
from workflows.output.images import write_batch
from workflows.output.manifest import read_table, remove_superseded
from workflows.output.repairs import settle_repairs
from workflows.plan import Plan, Shard
from workflows.prompts import keep_prompt_files
from workflows.retry_rejected import read_rejected
from workflows.rows import ShardRows, read_shard
from workflows.storage.store import Storage
from workflows.verify.check import verify_output

RECIPE = Recipe(
    family="toy",
    checkpoint="toy",
    revision=None,
    weights_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    prompt_format=None,
    vae=None,
    vae_revision=None,
    vae_sha256=None,
    dtype="float32",
    sampler="toy-1",
    cfg_weights=(5.0,),
    temperature=1.0,
    num_inference_steps=None,
    images_per_prompt=1,
    seed=0,
)

JUDGE = Judge(
    question="Is this {prompt}?",
    family="toy",
    checkpoint="toy",
    revision=None,
    weights_sha256=RECIPE.weights_sha256,
    prompt_format=None,
    is_own=True,
    looker="toy-look-1",
)

LOOK = Look(
    question="Describe this image in one sentence.",
    max_tokens=64,
    scores_all=False,
    root="",
    image_size=64,
    min_side=14,
    ground=(127, 127, 127),
)

# Four rows, of which one is invalid and one cannot be rendered by the engine.
FOUR_ROWS = {
    "prompt": ["a red square", None, "toy:nan", "a blue circle"],
    "id": ["red", "none", "nan", "blue"],
    "challenge": ["color", "x", "y", "shape"],
}


def recipe(**changes: Any) -> Recipe:
    """The toy recipe, with changes."""
    return dataclasses.replace(RECIPE, **changes)


def judge(**changes: Any) -> Judge:
    """The toy judge, with changes."""
    return dataclasses.replace(JUDGE, **changes)


def write_prompts(path: Path | str, columns: dict[str, Any], *, row_group_size: int | None = None) -> str:
    """A Parquet file of these columns (lists or Arrow arrays); returns its path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def make_job(prompts: Path | str, output: Path | str, **changes: Any) -> RenderJob:
    """A toy job, with changes to its fields."""
    fields = {"name": "toy", "recipe": RECIPE, "shard_rows": 4, **changes}
    return RenderJob(prompts=str(prompts), output=str(output), **fields)


def plan_job(job: RenderJob) -> Plan:
    """The plan of what is not committed yet."""
    files = remaining.find_job_prompts(job)
    return remaining.plan_job(job, keep_prompt_files(files, job.output, job.storage))


def rows_of(job: RenderJob) -> list[ShardRows]:
    """Every remaining shard, read and judged."""
    return [read_shard(job, shard) for shard in plan_job(job).remaining_shards()]


def render(job: RenderJob) -> list[Receipt]:
    """Claim the output, and render and commit every remaining shard and repair."""
    claim_output(job, {})
    plan, storage = plan_job(job), Storage(job.output, job.storage)
    settle_repairs(storage, plan.repairs)
    receipts = [render_shard(job, shard) for shard in plan.remaining_shards()]
    if plan.repairs:
        remove_superseded(storage)
    return receipts


def render_shard(job: RenderJob, shard: Shard, engine: Any = None, looker: Any = None) -> Receipt:
    """The path of one shard: read its rows, render them, write each batch, commit."""
    if job.recipe.look is not None:
        return _answer_shard(job, shard, job.recipe.look)
    rows = (read_rejected if shard.retry else read_shard)(job, shard)
    batcher, judge = Batcher(engine or ToyEngine(job.recipe), batch_size=3), job.recipe.judge
    renderer = JudgingBatcher(batcher, looker or ToyLooker(), judge) if judge else batcher
    written = [write_batch(job, shard.id, "cpu", batch) for batch in renderer.render(rows.requests)]
    return commit_shard(job, rows, *written)


def _answer_shard(job: RenderJob, shard: Shard, look: Look) -> Receipt:
    """The same of a job that looks at images."""
    rows = (read_rejected if shard.retry else read_look_shard)(job, shard)
    batcher = Batcher(LookingEngine(ToyLooker(), look), batch_size=3)
    return commit_shard(job, rows, *(answer_batch(job, "cpu", batch) for batch in batcher.render(rows.requests)))


def make_look_job(images: Path | str, output: Path | str, *, look: Look | None = None, **changes: Any) -> RenderJob:
    """A toy job that looks at the images of a Parquet file."""
    look = look or dataclasses.replace(LOOK, root=str(Path(images).parent))
    recipe_of_look = recipe(sampler="toy-look-1", cfg_weights=(1.0,), temperature=None, look=look)
    return make_job(images, output, recipe=recipe_of_look, reading=PromptReading(reads_images=True), **changes)


def manifest_of(job: RenderJob) -> list[dict[str, Any]]:
    """Every row of the manifest, in the order of the shards."""
    return _rows(job, "manifest")


def rejected_of(job: RenderJob) -> list[dict[str, Any]]:
    """Every rejected row, in the order of the shards."""
    return _rows(job, "rejected")


def faults_of(job: RenderJob) -> list[str]:
    """The faults that `verify` finds in the job's output, and whether rows are missing."""
    findings = verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe)
    return findings.faults + ["rows are missing"] * bool(findings.num_missing)


def bytes_of(folder: Path | str) -> dict[str, bytes]:
    """Every file below a local folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def _rows(job: RenderJob, folder: str) -> list[dict[str, Any]]:
    storage = Storage(job.output, job.storage)
    return [row for name in storage.names(folder) for row in read_table(storage, f"{folder}/{name}").to_pylist()]
