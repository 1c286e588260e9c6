"""What an output holds, from storage alone: images, rejected rows and what is left of the prompts."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.damage import damage_errors
from workflows.resume import committed_shards
from workflows.storage import Storage, storage_errors

NUM_READERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Committed shards and images, and the images that were rejected with how often each reason was given."""

    num_shards: int
    num_images: int
    num_rejected: int
    reasons: Counter[str]


def tally_output(output: str, storage_options: dict[str, Any]) -> Tally:
    """Count from the footers of the manifest parts and the (few) rejected files of committed shards."""
    with storage_errors(output):
        storage = Storage(output, storage_options)
        shards = committed_shards(storage)
        with_rejected = set(storage.names("rejected"))
        rejected_names = [f"rejected/{shard}.parquet" for shard in shards if f"{shard}.parquet" in with_rejected]
        with ThreadPoolExecutor(NUM_READERS) as readers:
            counts = readers.map(lambda shard: count_rows(storage, f"manifest/{shard}.parquet"), shards)
            num_images = sum(counts)
            reasons: Counter[str] = Counter()
            for part in readers.map(lambda name: _count_reasons(storage, name), rejected_names):
                reasons.update(part)
    return Tally(num_shards=len(shards), num_images=num_images, num_rejected=reasons.total(), reasons=reasons)


def _count_reasons(storage: Storage, name: str) -> Counter[str]:
    """Images by the reason they were rejected for."""
    reasons: Counter[str] = Counter()
    for row in read_table(storage, name, ["reason", "num_images"]).to_pylist():
        reasons[row["reason"]] += row["num_images"]
    return reasons


def count_rows(storage: Storage, name: str) -> int:
    with damage_errors(f"{storage.url}/{name}"), storage.fs.open(storage.path(name), "rb") as file:
        return pq.read_metadata(file).num_rows


def read_table(storage: Storage, name: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file of an output. Raises FileNotFoundError or DamagedFileError."""
    data = storage.read(name)
    with damage_errors(f"{storage.url}/{name}"):
        return pq.read_table(pa.BufferReader(data), columns=columns)
