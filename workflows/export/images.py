"""The images of committed shards with their manifest rows, read a few at a time and checked against their SHA-256."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from workflows.export.columns import convert
from workflows.output.layouts import read_pack
from workflows.output.manifest import NUM_READERS
from workflows.output.parts import read_part
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import storage_errors
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

LEFT_OUT = ("image", "codes", "latents")  # of the manifest: locations in OUTPUT, and bulk
KEYS = ["image_id", "prompt_id", "image_index", "cfg_weight", "prompt"]
NUM_AHEAD = 4 * NUM_READERS


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportImage:
    """An image file and its manifest row. `record` is the row as a table of one row, in the types of the export;
    `extension` comes without the dot."""

    image_id: str
    prompt_id: str
    image_index: int
    cfg_weight: float
    prompt: str
    record: pa.Table
    data: bytes
    extension: str


def images_of_shard(source: Storage, parts: Sequence[str], schema: pa.Schema) -> Iterator[ExportImage]:
    """The images of a shard's parts, in the order of the manifest.

    Raises DamagedFileError naming an image that is missing or whose bytes differ from the manifest's SHA-256.
    """
    for part in parts:
        yield from _images_of_part(source, part, schema)


def images_by_prompt(source: Storage, parts: Sequence[str], schema: pa.Schema) -> Iterator[ExportImage]:
    """Like `images_of_shard`, but all images of a prompt together. Holds the images of retries in memory."""
    later: dict[str, list[ExportImage]] = defaultdict(list)
    for image in images_of_shard(source, parts[1:], schema):
        later[image.prompt_id].append(image)
    for prompt_id, first in groupby(images_of_shard(source, parts[:1], schema), key=lambda image: image.prompt_id):
        yield from first
        yield from later.pop(prompt_id, ())
    for images in later.values():
        yield from images


def _images_of_part(source: Storage, part: str, schema: pa.Schema) -> Iterator[ExportImage]:
    with storage_errors(source.url):
        table = read_part(source, part)
    keys, records = table.select(KEYS), convert(table, schema)
    locations, hashes = table["image"].to_pylist(), table["image_sha256"].to_pylist()
    reader = _Reader(source)
    for start in range(0, table.num_rows, NUM_AHEAD):
        rows = range(start, min(start + NUM_AHEAD, table.num_rows))
        with storage_errors(source.url):
            files = reader.read([locations[row] for row in rows], [hashes[row] for row in rows])
        for row, data in zip(rows, files, strict=True):
            [key] = keys.slice(row, 1).to_pylist()
            extension = locations[row].rpartition(".")[2]
            yield ExportImage(**key, record=records.slice(row, 1), data=data, extension=extension)


class _Reader:
    """Reads image files, several at a time, and packs, of which it keeps the last."""

    def __init__(self, source: Storage) -> None:
        self._source = source
        self._pack_name, self._pack = "", dict[str, bytes]()

    def read(self, locations: Sequence[str], hashes: Sequence[str]) -> list[bytes]:
        with ThreadPoolExecutor(NUM_READERS) as readers:
            files = readers.map(self._read_file, locations)
            found = [self._read_member(*pair) for pair in zip(locations, files, strict=True)]
            return list(readers.map(self._check, locations, found, hashes))

    def _read_file(self, location: str) -> bytes | None:
        try:
            return None if "#" in location else self._source.read(location)
        except FileNotFoundError:
            return None

    def _read_member(self, location: str, data: bytes | None) -> bytes | None:
        name, _, member = location.partition("#")
        if not member:
            return data
        if name != self._pack_name:
            try:
                self._pack_name, self._pack = name, read_pack(self._source, name)
            except FileNotFoundError:
                self._pack_name, self._pack = name, {}
        return self._pack.get(member)

    def _check(self, location: str, data: bytes | None, sha256: str) -> bytes:
        if data is not None and hashlib.sha256(data).hexdigest() == sha256:
            return data
        fault = "is missing" if data is None else "differs from the SHA-256 in its manifest row"
        repair = f"janus-batch verify {output_arguments(self._source.url, self._source.options)} --repair"
        raise DamagedFileError(
            f"{self._source.url}/{location} {fault}. `{repair}` takes it back, and the next "
            "`janus-batch render` re-renders it"
        )
