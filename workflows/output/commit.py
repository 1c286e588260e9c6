"""The commit of a shard: its images first, then its rejected rows, and its manifest part last.

A shard is committed once its manifest part exists. The part, and the images and rejected rows that it names, are
created and never overwritten. So the first attempt to commit wins and a late one changes nothing, even if it rendered
other bytes or rejected other images on another kind of GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from actors.recipe import sampling_settings
from actors.request import ImageRequest, Rejection, RenderedImage
from workflows.job import RenderJob
from workflows.output.encode import EXTENSIONS, encode_image
from workflows.output.layouts import location, npy_bytes, parquet_bytes, write_pack
from workflows.output.manifest import MANIFEST_SCHEMA, REJECTED_KEY, REJECTED_SCHEMA, manifest_name
from workflows.output.picture_statistics import picture_statistics
from workflows.plan import Shard
from workflows.rows import RejectedRow, ShardRows
from workflows.storage.store import Storage

NUM_WRITERS = 8  # threads that encode and upload the images of one batch


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenBatch:
    """A batch whose images are stored, or encoded where the layout packs them at the commit.

    * `rows`: the manifest rows of the images.
    * `packed`: bytes by location; empty for layout files.
    * `rejected`: requests that the engine could not render, with the reasons.
    * `num_bytes`: size of the encoded images and latents.
    """

    rows: list[dict[str, Any]]
    packed: dict[str, bytes]
    rejected: list[tuple[ImageRequest, str]]
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The result of one attempt to commit. `is_first` is False if another attempt has committed the shard.

    A retry that rendered no image commits nothing, so that the rejected rows before it keep counting.
    """

    shard_id: str
    num_images: int
    num_rejected: int
    is_first: bool


def write_batch(
    job: RenderJob, shard_id: str, device: str, batch: Sequence[tuple[ImageRequest, RenderedImage | Rejection]]
) -> WrittenBatch:
    """Encode a batch of answers, and store the image files (layout files) or return their bytes (other layouts)."""
    storage = Storage(job.output, job.storage)
    rendered = [(request, answer) for request, answer in batch if isinstance(answer, RenderedImage)]
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        written = list(writers.map(lambda pair: _write_image(job, storage, shard_id, device, *pair), rendered))
    return WrittenBatch(
        rows=[row for row, _, _ in written],
        packed={name: data for _, files, _ in written for name, data in files.items()},
        rejected=[(request, answer.reason) for request, answer in batch if isinstance(answer, Rejection)],
        num_bytes=sum(num_bytes for _, _, num_bytes in written),
    )


def commit_shard(job: RenderJob, rows: ShardRows, *written: WrittenBatch) -> Receipt:
    """Write the shard's pack (webdataset, parquet), its rejected rows, and last its manifest part.

    Raises AssertionError unless `written` has exactly one answer for each request of the shard.
    """
    storage, shard = Storage(job.output, job.storage), rows.shard
    packed = {name: data for batch in written for name, data in batch.packed.items()}
    manifest = _manifest_table(rows, [row for batch in written for row in batch.rows])
    rejected = rows.rejected + [rejected_image(rows, *pair) for batch in written for pair in batch.rejected]
    expected = len(rows.requests)
    found = manifest.num_rows + sum(len(batch.rejected) for batch in written)
    if found != expected:
        raise AssertionError(f"shard {shard.id} has {found} answers for {expected} requests")
    is_in_vain = shard.retry and not shard.is_repair and not manifest.num_rows
    if is_in_vain or storage.exists(manifest_name(shard.id)):
        return _receipt(shard, manifest, rejected, is_first=False)
    manifest = write_pack(storage, job.images.layout, shard.id, packed, manifest)
    rejected_name = ""
    if rejected:
        rejected_name = storage.put_alongside(f"rejected/{shard.id}.parquet", rejected_bytes(shard, rejected))
    manifest = manifest.replace_schema_metadata({REJECTED_KEY: rejected_name})
    is_first = storage.create(manifest_name(shard.id), parquet_bytes(manifest))
    return _receipt(shard, manifest, rejected, is_first=is_first)


def _write_image(
    job: RenderJob, storage: Storage, shard_id: str, device: str, request: ImageRequest, image: RenderedImage
) -> tuple[dict[str, Any], dict[str, bytes], int]:
    """One image's manifest row, its files by location if the layout packs them, and their size in bytes.

    For layout files, its files are stored when this returns.
    """
    data = encode_image(image, job.images.format, request, job.recipe)
    files = {location(job.images.layout, shard_id, request.image_id, EXTENSIONS[job.images.format]): data}
    if job.images.keep_latents and image.latents is not None:
        files[location(job.images.layout, shard_id, request.image_id, "npy")] = npy_bytes(image.latents)
    is_packed, locations = job.images.layout != "files", list(files)
    if not is_packed:
        locations = [storage.put_alongside(file_name, file_data) for file_name, file_data in files.items()]
    row = _manifest_row(job, device, request, image, locations, data)
    return row, files if is_packed else {}, sum(len(file) for file in files.values())


def _manifest_row(
    job: RenderJob, device: str, request: ImageRequest, image: RenderedImage, locations: list[str], data: bytes
) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "image_id": request.image_id,
        "prompt_id": request.prompt_id,
        "image_index": request.image_index,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "cfg_weight": request.cfg_weight,
        **sampling_settings(request),
        "model": recipe.checkpoint,
        "model_revision": recipe.revision,
        "weights_sha256": recipe.weights_sha256,
        "vae": recipe.vae,
        "vae_revision": recipe.vae_revision,
        "vae_sha256": recipe.vae_sha256,
        "family": recipe.family,
        "prompt_format": recipe.prompt_format,
        "dtype": recipe.dtype,
        "kv_cache": recipe.kv_cache,
        "sampler": recipe.sampler,
        "image": locations[0],
        "width": image.pixels.shape[1],
        "height": image.pixels.shape[0],
        "image_sha256": hashlib.sha256(data).hexdigest(),
        **picture_statistics(image.pixels),
        "codes": image.codes,
        "latents": locations[1] if len(locations) > 1 else None,
        "device": device,
        "created_at": datetime.now(UTC),
    }


def _manifest_table(rows: ShardRows, image_rows: list[dict[str, Any]]) -> pa.Table:
    """The manifest part: rows in the order of the requests; our columns, then those carried from the prompt file."""
    by_id = {row["image_id"]: row for row in image_rows}
    ordered = [by_id[request.image_id] for request in rows.requests if request.image_id in by_id]
    table = pa.Table.from_pylist(ordered, schema=MANIFEST_SCHEMA)
    source_rows = pa.array([rows.row_of[row["prompt_id"]] for row in ordered], pa.int64())
    carried = rows.carried.take(source_rows)
    for name in carried.column_names:
        # A carried column with the name of one of ours gets the prefix `source_`.
        taken, free_name = {*table.column_names, *carried.column_names}, name
        while free_name in MANIFEST_SCHEMA.names or (free_name != name and free_name in taken):
            free_name = f"source_{free_name}"
        table = table.append_column(free_name, carried[name])
    return table


def rejected_image(rows: ShardRows, request: ImageRequest, reason: str) -> RejectedRow:
    """The record of an image that is not rendered, for this reason."""
    return RejectedRow(
        row=rows.shard.start + rows.row_of[request.prompt_id],
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
