"""The images of a committed shard that an export holds, read a few at a time and checked against their SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workflows.output.image_files import ImageFiles
from workflows.output.manifest import NUM_READERS
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

KEYS = ["image_id", "prompt_id", "image_index", "cfg_weight", "prompt"]
FILES = ["image", "image_sha256", "codes"]
NUM_AHEAD = 4 * NUM_READERS


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportImage:
    """An image file and its manifest row. `record` is the row as a table of one row, in the types of the export;
    `extension` comes without the dot; `data` is empty for a layout without pixels; `codes` are Janus's."""

    image_id: str
    prompt_id: str
    image_index: int
    cfg_weight: float
    prompt: str
    record: pa.Table
    data: bytes
    extension: str
    codes: npt.NDArray[np.int32] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTable:
    """The rows of a shard: `keys` with the columns KEYS and FILES, and `records` in the types of the export."""

    keys: pa.Table
    records: pa.Table

    def take(self, rows: pa.Array) -> ShardTable:
        return ShardTable(keys=self.keys.take(rows), records=self.records.take(rows))


def read_images(source: Storage, shard: ShardTable, *, with_pixels: bool) -> Iterator[ExportImage]:
    """The images of these rows, in their order.

    Raises DamagedFileError naming an image that is missing or whose bytes differ from the manifest's SHA-256.
    """
    with ThreadPoolExecutor(NUM_READERS) as threads:
        reader = ImageFiles(source, threads)
        for start in range(0, shard.keys.num_rows, NUM_AHEAD):
            keys, records = shard.keys.slice(start, NUM_AHEAD), shard.records.slice(start, NUM_AHEAD)
            locations, codes = keys["image"].to_pylist(), keys["codes"]
            files = [b""] * len(locations)
            if with_pixels:
                with storage_errors(source.url):
                    files = reader.read(locations, keys["image_sha256"].to_pylist())
            for row, key in enumerate(keys.select(KEYS).to_pylist()):
                yield ExportImage(
                    **key,
                    record=records.slice(row, 1),
                    data=files[row],
                    extension=locations[row].rpartition(".")[2],
                    codes=codes[row].values.to_numpy() if codes[row].is_valid else None,
                )
