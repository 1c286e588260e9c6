"""Pending repairs: images that `verify --repair` took out of the manifest, for the next run to re-render.

A repair lists these images as rejected, in a file `rejected/<part>.repair.parquet`, and then replaces the shard's last
part by one that names this file. That is its commit: from then on the images are pending. Rows of the images in earlier
parts of the shard are removed afterwards, here, and again by the next run if a repair was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from workflows.output.layouts import parquet_bytes, read_pack, write_pack
from workflows.output.manifest import (
    NUM_READERS,
    REJECTED_KEY,
    last_parts,
    manifest_name,
    read_rejected,
    read_table,
    rejected_file,
)
from workflows.output.parts import read_part
from workflows.plan import Shard, part_id, part_of_file, shard_of, split_part_id
from workflows.prompts import PromptFile
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

REPAIR_REASON = "its file was missing or damaged; the next run of the job re-renders it"


def repair_file(part: str) -> str:
    """The name of the rejected rows that a repair writes. `pending_repairs` recognizes it in a listing."""
    return f"rejected/{part}.repair.parquet"


def pending_repairs(storage: Storage, files: Iterable[PromptFile], parts: Iterable[str]) -> tuple[Shard, ...]:
    """The repairs to render, each as a part next to its shard's last one. Repairs of removed prompt files are left out.

    Costs one listing, and two small reads for each repair. A repair whose own files are damaged is left to `verify`.
    """
    files, last = tuple(files), last_parts(parts)
    names = [f"rejected/{name}" for name in storage.names("rejected")]
    repaired = {part for name in names if (part := part_of_file(name)) and name.startswith(f"rejected/{part}.repair.")}
    candidates = sorted(part for part in last.values() if part in repaired)
    with ThreadPoolExecutor(NUM_READERS) as readers:
        shards = readers.map(lambda part: _pending_repair(storage, files, part), candidates)
        return tuple(shard for shard in shards if shard is not None and shard.num_rejected)


def _pending_repair(storage: Storage, files: Iterable[PromptFile], part: str) -> Shard | None:
    shard_id, retry = split_part_id(part)
    shard = shard_of(files, shard_id, retry=retry + 1)
    try:
        name = rejected_file(storage, part)
        reasons = read_rejected(storage, name, ["reason"])["reason"].to_pylist() if name else []
    except (DamagedFileError, FileNotFoundError):
        return None
    return shard and replace(shard, is_repair=True, num_rejected=reasons.count(REPAIR_REASON))


def settle_repairs(storage: Storage, repairs: Iterable[Shard]) -> None:
    """Take the images of pending repairs out of the earlier parts of their shards, where a repair was interrupted."""
    for shard in repairs:
        *earlier, last = [part_id(replace(shard, retry=0).id, retry) for retry in range(shard.retry)]
        name = rejected_file(storage, last)
        if earlier and name:
            rows = read_rejected(storage, name, ["image_id", "reason"]).to_pylist()
            pending = {row["image_id"] for row in rows if row["reason"] == REPAIR_REASON}
            for part in earlier:
                replace_part(storage, part, pending)


def replace_part(storage: Storage, part: str, image_ids: set[str], rejected_name: str | None = None) -> None:
    """Replace a part by one without these images that names `rejected_name`, or the same file as before.

    Readers see the old part or the new one. A pack is replaced too, because its readers do not read the manifest.
    Raises DamagedFileError.
    """
    checked = read_part(storage, part, ["image_id", "image"])  # files are removed by what these say
    table = read_table(storage, manifest_name(part))
    kept = table.filter(pc.invert(pc.is_in(checked["image_id"], pa.array(sorted(image_ids), pa.string()))))
    if kept.num_rows == table.num_rows and rejected_name is None:
        return
    packs = {image.partition("#")[0] for image in checked["image"].to_pylist() if "#" in image}
    if kept.num_rows < table.num_rows:
        kept = _packed_again(storage, part, kept)
    if rejected_name is not None:
        kept = kept.replace_schema_metadata({**(kept.schema.metadata or {}), REJECTED_KEY: rejected_name})
    storage.write(manifest_name(part), parquet_bytes(kept))
    for pack in packs - {image.partition("#")[0] for image in kept["image"].to_pylist()}:
        storage.remove(pack)


def _packed_again(storage: Storage, part: str, kept: pa.Table) -> pa.Table:
    """The rows with the locations of their images in a new pack. Rows without a pack are returned as they are."""
    locations = [place for name in ("image", "latents") for place in kept[name].to_pylist() if place and "#" in place]
    if not locations:
        return kept
    members = read_pack(storage, locations[0].partition("#")[0])
    packed = {place: members[place.partition("#")[2]] for place in locations}
    extension = locations[0].partition("#")[0].rpartition(".")[2]
    for name in ("image", "latents"):
        column = pc.replace_substring_regex(kept[name], "^[^#]*#", f"images/{part}.{extension}#")
        kept = kept.set_column(kept.schema.get_field_index(name), kept.schema.field(name), column)
    return write_pack(storage, "webdataset" if extension == "tar" else "parquet", part, packed, kept)
