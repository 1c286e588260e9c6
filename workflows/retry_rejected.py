"""Rendering again what was rejected: which shards to go through, and which of their rows.

A retry is a part of its own beside the shard's, made of the shard's prompt rows as they were. It is committed if it
made any image; its rejected rows then stand for those of the part before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from actors.request import ImageRequest
from workflows.job import RenderJob
from workflows.output.manifest import last_parts, read_table, rejected_file, rejected_files
from workflows.plan import RetryPlan, Shard, part_id, shard_of, split_part_id
from workflows.prompts import PromptFile
from workflows.rows import RejectedRow, ShardRows, read_shard
from workflows.storage.store import Storage


def plan_retries(storage: Storage, files: Iterable[PromptFile], parts: Iterable[str]) -> RetryPlan:
    """A retry of every shard that has rejected rows, and whose prompt file is still there."""
    files, last = tuple(files), last_parts(parts)
    shards = []
    for shard_id, name in rejected_files(storage, last.values()).items():
        shard = shard_of(files, shard_id, retry=split_part_id(last[shard_id])[1] + 1)
        if shard is not None:
            num_rejected = sum(read_table(storage, name, ["num_images"])["num_images"].to_pylist())
            shards.append(replace(shard, num_rejected=num_rejected))
    return RetryPlan(shards=tuple(shards))


def read_again(job: RenderJob, shard: Shard) -> ShardRows:
    """Of a shard's rows, what the part before this retry rejected; judged anew, with the same ids and seeds."""
    storage, rows = Storage(job.output, job.storage), read_shard(job, shard)
    before = part_id(replace(shard, retry=0).id, shard.retry - 1)
    name = rejected_file(storage, before)
    images_of: dict[int, set[str] | None] = defaultdict(set)  # of a prompt row; None: all of its images
    for row in read_table(storage, name, ["row", "image_id"]).to_pylist() if name else ():
        if row["image_id"] is None:
            images_of[row["row"]] = None
        elif (images := images_of[row["row"]]) is not None:
            images.add(row["image_id"])
    places = {prompt_id: shard.start + index for prompt_id, index in rows.row_of.items()}

    def is_wanted(request: ImageRequest) -> bool:
        wanted = images_of.get(places[request.prompt_id], set())
        return wanted is None or request.image_id in wanted

    return replace(
        rows,
        requests=[request for request in rows.requests if is_wanted(request)],
        rejected=[part for row in rows.rejected if row.row in images_of for part in _split(row, images_of[row.row])],
    )


def _split(row: RejectedRow, image_ids: set[str] | None) -> list[RejectedRow]:
    """A row that is rejected as a whole, or as those of its images that are not there yet."""
    if image_ids is None:
        return [row]
    return [replace(row, image_id=image_id, num_images=1) for image_id in sorted(image_ids)]
