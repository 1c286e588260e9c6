"""Files of an output that nothing names, of attempts that were lost: which there are, and their removal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from workflows.output.manifest import committed_parts, last_parts, manifest_name
from workflows.plan import part_of_file
from workflows.storage.store import Storage

# A live attempt has written files of a part that is not committed yet. One that wrote nothing for a day is not live.
LIVE_SECONDS = 24 * 3600


@dataclass(kw_only=True, slots=True)
class Cleaning:
    """What was removed, and what was left because an attempt that is still alive may be about to name it."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def find_leftovers(storage: Storage, named: set[str], parts: Iterable[str]) -> list[str]:
    """Every file below images/, rejected/ and manifest/ that no part names and that is no part, and lost drafts."""
    committed = {manifest_name(part) for part in parts}
    below = [name for folder in ("images", "rejected", "manifest") for name in storage.walk(folder)]
    beside = [name for name in storage.names("") if name.endswith(".draft") or name.startswith("_probe-")]
    return sorted({*below, *beside} - named - committed)


def clean(storage: Storage, leftovers: Iterable[str], parts: Iterable[str]) -> Cleaning:
    """Remove leftovers. Those of a committed part go at once: no later attempt at it changes what the part names.

    Those of another part, and all where the store has no conditional create, go once they are a day old.
    """
    cleaning, committed = Cleaning(), set(parts)
    for name in leftovers:
        is_settled = storage.can_create and part_of_file(name) in committed and not name.endswith(".draft")
        if is_settled or storage.age(name) > LIVE_SECONDS:
            storage.remove(name)
            cleaning.removed.append(name)
        else:
            cleaning.kept.append(name)
    return cleaning


def remove_superseded(storage: Storage) -> None:
    """Remove the rejected rows that a later, committed retry of their shard stands for."""
    parts = committed_parts(storage)
    last = set(last_parts(parts).values())
    for name in storage.names("rejected"):
        part = part_of_file(f"rejected/{name}")
        if part in parts and part not in last:
            storage.remove(f"rejected/{name}")
