"""Repairs of an output: take shards back whose files are at fault, and remove files that no manifest part names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from workflows.output.manifest import manifest_name, parts_of_shards
from workflows.plan import Plan, part_of_file, shard_of, split_part_id
from workflows.storage.store import Storage

# A running attempt has written files of a part that is not committed yet. An attempt that wrote nothing for a day has
# ended.
LIVE_SECONDS = 24 * 3600


@dataclass(kw_only=True, slots=True)
class Cleaning:
    """The orphans that were removed, and those that were kept because a running attempt may still commit them."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def take_back(storage: Storage, plan: Plan, parts: Iterable[str], shard_ids: Iterable[str]) -> list[str]:
    """Remove all manifest parts of these shards, so that the next run renders them. Returns their ids.

    Shards whose prompt file is gone are kept. A shard's retries go before its own part, because they hold only images
    that the part before them rejected.
    """
    wanted = {shard_id for shard_id in shard_ids if shard_of(plan.files, shard_id, retry=0)}
    for of_shard in parts_of_shards(parts):
        if split_part_id(of_shard[0])[0] in wanted:
            for part in reversed(of_shard):
                storage.remove(manifest_name(part))
    return sorted(wanted)


def remove_orphans(storage: Storage, orphans: Iterable[str], parts: Iterable[str]) -> Cleaning:
    """Remove orphans that no running attempt can commit any more.

    Those of a committed part go at once: no later attempt at it changes the files that the part names. Those of other
    parts, and all of them if the store has no conditional create, go once they are a day old.
    """
    cleaning, committed = Cleaning(), set(parts)
    for name in orphans:
        is_settled = storage.can_create and part_of_file(name) in committed and not name.endswith(".draft")
        if is_settled or storage.age(name) > LIVE_SECONDS:
            storage.remove(name)
            cleaning.removed.append(name)
        else:
            cleaning.kept.append(name)
    return cleaning
