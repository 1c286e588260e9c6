"""Retries of rejected rows: which shards have any, and which of their rows to render.

A retry is a manifest part of its own next to the shard's, made from the same prompt rows. It is committed if it made
any image. Its rejected rows then replace those of the part before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from actors.request import AnyRequest
from workflows.job import RenderJob
from workflows.looking.rows import read_look_shard
from workflows.output.manifest import (
    REJECTED_SCHEMA,
    committed_parts,
    last_parts,
    rejected_file,
    rejected_files,
)
from workflows.output.manifest import read_rejected as read_rejected_rows
from workflows.output.repairs import REPAIR_REASON
from workflows.plan import RetryPlan, Shard, part_id, shard_of, split_part_id
from workflows.prompts import PromptFile
from workflows.rows import RejectedRow, ShardRows, read_shard
from workflows.storage.store import Storage

COLUMNS = [name for name in REJECTED_SCHEMA.names if name != "source"]  # the fields of a RejectedRow


def plan_retries(storage: Storage, files: Iterable[PromptFile]) -> tuple[RetryPlan, int]:
    """A retry of every shard with rejected rows, and the number of shards that have none because their file is gone."""
    files, last = tuple(files), last_parts(committed_parts(storage))
    shards, num_gone = [], 0
    for shard_id, name in rejected_files(storage, last.values()).items():
        shard = shard_of(files, shard_id, retry=split_part_id(last[shard_id])[1] + 1)
        if shard is None:
            num_gone += 1
        else:
            num_rejected = sum(read_rejected_rows(storage, name, ["num_images"])["num_images"].to_pylist())
            shards.append(replace(shard, num_rejected=num_rejected))
    return RetryPlan(shards=tuple(shards)), num_gone


def read_rejected(job: RenderJob, shard: Shard) -> ShardRows:
    """The rows of a shard that the part before this retry rejected, checked again, with the same ids and seeds.

    A repair has the requests of its own images alone. The other rejected rows are carried over as they are.
    """
    storage = Storage(job.output, job.storage)
    rows = read_shard(job, shard) if job.recipe.look is None else read_look_shard(job, shard)
    before = part_id(replace(shard, retry=0).id, shard.retry - 1)
    name = rejected_file(storage, before)
    images_of: dict[int, set[str] | None] = defaultdict(set)  # by prompt row; None: all of its images
    carried_over = []
    for row in read_rejected_rows(storage, name, COLUMNS).to_pylist() if name else ():
        if shard.is_repair and row["reason"] != REPAIR_REASON:
            carried_over.append(RejectedRow(**row))
        elif row["image_id"] is None:
            images_of[row["row"]] = None
        elif (images := images_of[row["row"]]) is not None:
            images.add(row["image_id"])
    row_numbers = {prompt_id: rows.row_numbers[index] for prompt_id, index in rows.row_of.items()}

    def is_wanted(request: AnyRequest) -> bool:
        wanted = images_of.get(row_numbers[request.prompt_id], set())
        return wanted is None or request.image_id in wanted

    return replace(
        rows,
        requests=[request for request in rows.requests if is_wanted(request)],
        rejected=[
            *carried_over,
            *(part for row in rows.rejected if row.row in images_of for part in _split(row, images_of[row.row])),
        ],
    )


def _split(row: RejectedRow, image_ids: set[str] | None) -> list[RejectedRow]:
    """A row that is rejected as a whole, or one record for each of its images that does not exist yet."""
    if image_ids is None:
        return [row]
    return [replace(row, image_id=image_id, num_images=1) for image_id in sorted(image_ids)]
