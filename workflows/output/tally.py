"""What an output holds, counted from storage alone."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from workflows.output.manifest import NUM_READERS, committed_parts, count_rows, read_rejected, rejected_files
from workflows.plan import split_part_id
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """The committed shards and images, and the rejected images by reason."""

    num_shards: int
    num_images: int
    num_rejected: int
    reasons: Counter[str]


def tally_output(output: str, storage_options: dict[str, Any]) -> Tally:
    """Count images from the footers of the manifest parts, and rejected images from the files that count."""
    with storage_errors(output):
        storage = Storage(output, storage_options)
        parts = committed_parts(storage)
        rejected_names = rejected_files(storage, parts).values()
        with ThreadPoolExecutor(NUM_READERS) as readers:
            counts = readers.map(lambda part: count_rows(storage, part), parts)
            num_images = sum(counts)
            reasons: Counter[str] = Counter()
            for counted in readers.map(lambda name: _count_reasons(storage, name), rejected_names):
                reasons.update(counted)
    num_shards = len({split_part_id(part)[0] for part in parts})
    return Tally(num_shards=num_shards, num_images=num_images, num_rejected=reasons.total(), reasons=reasons)


def _count_reasons(storage: Storage, name: str) -> Counter[str]:
    """The number of rejected images by reason, in one file."""
    reasons: Counter[str] = Counter()
    for row in read_rejected(storage, name, ["reason", "num_images"]).to_pylist():
        reasons[row["reason"]] += row["num_images"]
    return reasons
