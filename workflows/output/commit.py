"""The commit of a shard: its images first, then its rejected rows, and its manifest part last.

A shard is committed once its manifest part exists. The part, and the images and rejected rows that it names, are
created and never overwritten. So the first attempt to commit wins and a late one changes nothing, even if it rendered
other bytes or rejected other images on another kind of GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.request import AnyRequest
from workflows.job import RenderJob
from workflows.output.images import WrittenBatch
from workflows.output.layouts import files_of, parquet_bytes, write_pack
from workflows.output.manifest import (
    REJECTED_KEY,
    REJECTED_SCHEMA,
    PartKind,
    carried_names,
    kind_of_recipe,
    manifest_name,
    marks_of,
    own_schema,
)
from workflows.plan import Shard
from workflows.rows import RejectedRow, ShardRows
from workflows.storage.lease import OutputRemovedError
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The result of one attempt to commit. `is_first` is False if another attempt has committed the shard.

    A retry that rendered no image commits nothing, so that the rejected rows before it keep counting.
    """

    shard_id: str
    num_images: int
    num_rejected: int
    is_first: bool


def commit_shard(job: RenderJob, rows: ShardRows, *written: WrittenBatch) -> Receipt:
    """Write the shard's pack (webdataset, parquet), its rejected rows, and last its manifest part.

    Raises AssertionError unless `written` has exactly one answer for each request of the shard, and OutputRemovedError
    if image files that were written are gone.
    """
    storage, shard, kind = Storage(job.output, job.storage), rows.shard, kind_of_recipe(job.recipe)
    packed = {name: data for batch in written for name, data in batch.packed.items()}
    manifest = _manifest_table(rows, [row for batch in written for row in batch.rows], kind)
    rejected = rows.rejected + [rejected_image(rows, *pair) for batch in written for pair in batch.rejected]
    expected = len(rows.requests)
    found = manifest.num_rows + sum(len(batch.rejected) for batch in written)
    if found != expected:
        raise AssertionError(f"shard {shard.id} has {found} answers for {expected} requests")
    is_in_vain = shard.retry and not shard.is_repair and not manifest.num_rows
    if is_in_vain or storage.exists(manifest_name(shard.id)):
        return _receipt(shard, manifest, rejected, is_first=False)
    if kind != "answers" and job.images.layout == "files":
        _check_files(storage, shard, manifest)
    manifest = write_pack(storage, job.images.layout, shard.id, packed, manifest)
    rejected_name = ""
    if rejected:
        rejected_name = storage.put_alongside(f"rejected/{shard.id}.parquet", rejected_bytes(shard, rejected))
    manifest = manifest.replace_schema_metadata({REJECTED_KEY: rejected_name} | marks_of(kind))
    is_first = storage.create(manifest_name(shard.id), parquet_bytes(manifest))
    return _receipt(shard, manifest, rejected, is_first=is_first)


def _check_files(storage: Storage, shard: Shard, manifest: pa.Table) -> None:
    """Raise OutputRemovedError if an image file of the shard is gone. Costs one listing."""
    present = storage.walk(f"images/{shard.id}")
    if not all(map(storage.exists, files_of(manifest).difference(present))):
        raise OutputRemovedError(storage.url)


def _manifest_table(rows: ShardRows, image_rows: list[dict[str, Any]], kind: PartKind) -> pa.Table:
    """The manifest part: rows in the order of the requests; our columns, then those carried from the prompt file."""
    by_id = {row["image_id"]: row for row in image_rows}
    ordered = [
        {**by_id[request.image_id], "row_seed": rows.row_seeds[request.prompt_id]}
        for request in rows.requests
        if request.image_id in by_id
    ]
    table = pa.Table.from_pylist(ordered, schema=own_schema(kind))
    source_rows = pa.array([rows.row_of[row["prompt_id"]] for row in ordered], pa.int64())
    carried = rows.carried.take(source_rows)
    for name, free_name in carried_names(carried.column_names, kind).items():
        table = table.append_column(free_name, carried[name])
    return table


def rejected_image(rows: ShardRows, request: AnyRequest, reason: str) -> RejectedRow:
    """The record of an image that is not rendered, for this reason."""
    return RejectedRow(
        row=rows.row_numbers[rows.row_of[request.prompt_id]],
        prompt_id=request.prompt_id,
        image_id=request.image_id,
        num_images=1,
        reason=reason,
        prompt=request.prompt,
    )


def rejected_bytes(shard: Shard, rejected: Iterable[RejectedRow]) -> bytes:
    """The Parquet file of a shard's rejected rows."""
    rows = [
        {name: getattr(row, name) for name in REJECTED_SCHEMA.names if name != "source"} | {"source": shard.file.url}
        for row in rejected
    ]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA))


def _receipt(shard: Shard, manifest: pa.Table, rejected: Sequence[RejectedRow], *, is_first: bool) -> Receipt:
    return Receipt(
        shard_id=shard.id,
        num_images=manifest.num_rows,
        num_rejected=sum(row.num_images for row in rejected),
        is_first=is_first,
    )
