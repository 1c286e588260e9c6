"""The mark of an output of which files were removed while a run was writing to it.

A shard may be committed at that moment although images of it, which were written before, are gone. The run that notices
the removal leaves the mark, and the next one takes such shards back before it plans.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflows.output.manifest import committed_parts, parts_of_shards, rejected_file
from workflows.output.parts import read_part
from workflows.output.read_ahead import read_ahead
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

REMOVED_FILE = "_removed"


def mark_removal(storage: Storage) -> None:
    """Leave the mark for the next run."""
    storage.write(REMOVED_FILE, b"files were removed while a run was writing; the next run looks for what is missing\n")


def shards_without_files(storage: Storage, *, have_images: bool = True) -> list[list[str]]:
    """The parts of each committed shard of which an image or the rejected rows are gone, from one listing.

    `have_images` is False for an output whose parts name images of the user. Damaged parts are left to `verify`.
    """
    present = {*storage.walk("images"), *storage.walk("rejected")}

    def is_whole(part: str) -> bool:
        try:
            return _files_of(storage, part, have_images=have_images) <= present
        except DamagedFileError:
            return True

    def are_whole(parts: Sequence[str]) -> bool:
        return all(map(is_whole, parts))

    shards = parts_of_shards(committed_parts(storage))
    return [parts for parts, whole in zip(shards, read_ahead(shards, are_whole), strict=True) if not whole]


def _files_of(storage: Storage, part: str, *, have_images: bool) -> set[str]:
    """The files that a part names."""
    rejected = rejected_file(storage, part)
    files = {rejected} if rejected else set()
    if have_images:
        table = read_part(storage, part, ["image", "latents"])
        places = [place for name in ("image", "latents") for place in table[name].to_pylist() if place]
        files |= {place.partition("#")[0] for place in places}
    return files
