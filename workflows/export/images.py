"""The images of one committed shard with their manifest rows, read a few at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from workflows.output.layouts import read_pack
from workflows.output.manifest import NUM_READERS, manifest_name, read_table
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

LEFT_OUT = ("image", "codes", "latents")  # of the manifest: what has no meaning apart from OUTPUT, or is bulk
NUM_AHEAD = 4 * NUM_READERS


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportImage:
    """An image file and its manifest row, without the columns that are left out. `extension` without the dot."""

    row: dict[str, Any]
    data: bytes
    extension: str


def images_of_shard(source: Storage, shard_id: str) -> Iterator[ExportImage]:
    """In the order of the manifest. Raises DamagedFileError naming an image that is not there."""
    table = read_table(source, manifest_name(shard_id))
    places = table["image"].to_pylist()
    table = table.cast(pa.schema([as_exported(field) for field in table.schema]))
    table = table.drop_columns([name for name in LEFT_OUT if name in table.column_names])
    pack_name, packed = None, {}
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for start in range(0, len(places), NUM_AHEAD):
            chunk = places[start : start + NUM_AHEAD]
            singles = readers.map(lambda place: None if "#" in place else _read(source, place), chunk)
            for row, place, data in zip(table.slice(start, NUM_AHEAD).to_pylist(), chunk, singles, strict=True):
                name, _, member = place.partition("#")
                if member and name != pack_name:
                    pack_name, packed = name, _read_pack(source, name)
                data = packed.get(member) if member else data
                if data is None:
                    raise DamagedFileError(f"{source.url}/{place} is missing; `janus-batch verify` names every fault")
                yield ExportImage(row=row, data=data, extension=place.rpartition(".")[2])


def images_by_prompt(source: Storage, parts: Sequence[str]) -> Iterator[ExportImage]:
    """Of a shard's own part and of its retries, all the images of a prompt together. Retries are held in memory."""
    later: dict[str, list[ExportImage]] = defaultdict(list)
    for part in parts[1:]:
        for image in images_of_shard(source, part):
            later[image.row["prompt_id"]].append(image)
    for prompt_id, first in groupby(images_of_shard(source, parts[0]), key=lambda image: image.row["prompt_id"]):
        yield from first
        yield from later.pop(prompt_id, ())
    for images in later.values():
        yield from images


def as_exported(field: pa.Field) -> pa.Field:
    """Whole numbers of 64 bits (the seeds) become text: `datasets` overflows on them, JSON's readers round them."""
    return pa.field(field.name, pa.string()) if field.type == pa.uint64() else pa.field(field.name, field.type)


def _read(source: Storage, place: str) -> bytes | None:
    try:
        return source.read(place)
    except FileNotFoundError:
        return None


def _read_pack(source: Storage, name: str) -> dict[str, bytes]:
    try:
        return read_pack(source, name)
    except FileNotFoundError:
        return {}
