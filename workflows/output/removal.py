"""Files of an output that were removed while a run was writing to it: how a run notices, and the mark that it leaves.

A run compares what the folders of the output hold at its end with what they held when it began. The mark tells the next
run to look at every file, and to take back the shards that lack one before it plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workflows.output.layouts import files_of
from workflows.output.manifest import (
    NUM_READERS,
    committed_parts,
    count_rows,
    last_parts,
    parts_of_shards,
    rejected_file,
)
from workflows.output.parts import read_part
from workflows.output.read_ahead import read_ahead
from workflows.plan import part_of_file
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

REMOVED_FILE = "_removed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """The committed parts of an output, the parts that have a folder or pack in `images/`, and the files of rejected
    rows."""

    parts: frozenset[str]
    with_images: frozenset[str]
    rejected: frozenset[str]


def take_inventory(storage: Storage) -> Inventory:
    """The inventory, from one listing of each folder; images are not counted one by one."""
    entries = [part_of_file(f"images/{name}/") for name in storage.entries("images")]
    return Inventory(
        parts=frozenset(committed_parts(storage)),
        with_images=frozenset(part for part in entries if part),
        rejected=frozenset(f"rejected/{name}" for name in storage.names("rejected")),
    )


def is_missing_files(storage: Storage, before: Inventory, *, have_images: bool = True) -> bool:
    """Whether something of the inventory is gone, or files of shards that were committed since.

    `have_images` is as for `shards_without_files`.
    """
    now = take_inventory(storage)
    last = set(last_parts(now.parts).values())  # the rejected rows of others are superseded, and may be removed
    if before.parts - now.parts or before.with_images - now.with_images:
        return True
    if any(part_of_file(name) in last for name in before.rejected - now.rejected):
        return True

    def is_whole(part: str) -> bool:
        rejected = rejected_file(storage, part)
        has_images = part in now.with_images or not have_images or not count_rows(storage, part)
        return has_images and (rejected is None or rejected in now.rejected)

    with ThreadPoolExecutor(NUM_READERS) as readers:
        return not all(readers.map(is_whole, now.parts - before.parts))


def mark_removal(storage: Storage) -> None:
    """Leave the mark for the next run."""
    storage.write(REMOVED_FILE, b"files were removed while a run was writing; the next run looks for what is missing\n")


def shards_without_files(storage: Storage, *, have_images: bool = True) -> list[list[str]]:
    """The parts of each committed shard of which an image or the rejected rows are gone, from a listing of all files.

    `have_images` is False for an output whose parts name images of the user. Damaged parts are left to `verify`.
    """
    present = {*storage.walk("images"), *storage.walk("rejected")}

    def is_whole(part: str, *, is_last: bool) -> bool:
        try:
            rejected = rejected_file(storage, part) if is_last else None
            files = files_of(read_part(storage, part, ["image", "latents"])) if have_images else set()
        except DamagedFileError:
            return True
        return files <= present and (rejected is None or rejected in present)

    def are_whole(parts: Sequence[str]) -> bool:
        return all(is_whole(part, is_last=part == parts[-1]) for part in parts)

    shards = parts_of_shards(committed_parts(storage))
    return [parts for parts, whole in zip(shards, read_ahead(shards, are_whole), strict=True) if not whole]
