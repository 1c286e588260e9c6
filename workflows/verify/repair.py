"""Taking shards back whose files are at fault: they count as not rendered, and the next run renders them again."""

from __future__ import annotations

from collections.abc import Iterable

from workflows.output.manifest import manifest_name, parts_of_shards
from workflows.plan import Plan, shard_of, split_part_id
from workflows.storage.store import Storage


def take_back(storage: Storage, plan: Plan, parts: Iterable[str], shard_ids: Iterable[str]) -> list[str]:
    """Remove all manifest parts of these shards, except where the prompt file is gone; the ids of those taken back.

    A shard's retries go before its own part: they hold only what that one rejected.
    """
    wanted = {shard_id for shard_id in shard_ids if shard_of(plan.files, shard_id, retry=0)}
    for of_shard in parts_of_shards(parts):
        if split_part_id(of_shard[0])[0] in wanted:
            for part in reversed(of_shard):
                storage.remove(manifest_name(part))
    return sorted(wanted)
