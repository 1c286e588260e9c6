"""Repairs of an output: make the images at fault pending, and remove files that no manifest part names.

The mark and the report of a finished output go first, so that an interrupted repair never looks finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from workflows.output.claim import SUCCESS_FILE, Claim, claimed_job
from workflows.output.commit import rejected_bytes, rejected_image
from workflows.output.manifest import (
    REJECTED_SCHEMA,
    manifest_name,
    parts_of_shards,
    read_rejected,
    read_table,
    rejected_file,
)
from workflows.output.repairs import REPAIR_REASON, repair_file, replace_part
from workflows.plan import Plan, Shard, part_of_file, shard_of, split_part_id
from workflows.report.write import REPORT_FILE
from workflows.rows import RejectedRow, ShardRows, read_shard
from workflows.scores.parts import take_back
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import DRAFT, Storage

# A running attempt has written files of a part that is not committed yet. An attempt that wrote nothing for a day has
# ended.
LIVE_SECONDS = 24 * 3600


@dataclass(kw_only=True, slots=True)
class Repairs:
    """The result of a repair.

    * `num_images`: images that the next run re-renders, in the shards `repaired`.
    * `taken_back`: shards whose part of the manifest is damaged: the next run renders them whole.
    * `kept`: shards at fault whose prompt file is gone.
    """

    num_images: int = 0
    repaired: list[str] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Cleaning:
    """The orphans that were removed, and those that were kept because a running attempt may still commit them."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def repair_output(
    storage: Storage, claim: Claim, plan: Plan, parts: Iterable[str], at_fault: dict[str, set[str] | None]
) -> Repairs:
    """Make the images at fault pending, so that the next run re-renders them and nothing else.

    `at_fault` has the images at fault by shard id; None if a part of the shard's manifest is damaged.
    """
    repairs, shards = Repairs(), {id: shard_of(plan.files, id, retry=0) for id in at_fault}
    repairs.kept = sorted(shard_id for shard_id, shard in shards.items() if shard is None)
    if len(repairs.kept) < len(shards):
        storage.remove(SUCCESS_FILE)
        storage.remove(REPORT_FILE)
    for of_shard in parts_of_shards(parts):
        shard_id, _ = split_part_id(of_shard[0])
        if (shard := shards.get(shard_id)) is None:
            continue
        if (image_ids := at_fault[shard_id]) is None:
            take_back(storage, of_shard)
            repairs.taken_back.append(shard_id)
        else:
            repairs.num_images += _repair_shard(storage, claim, shard, of_shard, image_ids)
            repairs.repaired.append(shard_id)
    return repairs


def _repair_shard(storage: Storage, claim: Claim, shard: Shard, parts: list[str], at_fault: set[str]) -> int:
    """Make a shard's images at fault pending, and those that neither its parts nor its rejected rows account for.

    Returns the number of pending images. Until the last part is replaced, nothing has changed; see
    `workflows.output.repairs` for the rest.
    """
    rows, last, before = read_shard(claimed_job(storage, claim), shard), parts[-1], rejected_file(storage, parts[-1])
    tables = [read_table(storage, manifest_name(part), ["image_id"]) for part in parts]
    intact = {image_id for table in tables for image_id in table["image_id"].to_pylist()} - at_fault
    rejected = [row for row in _rejected_rows(storage, before, rows) if row.image_id not in intact | at_fault]
    accounted = intact | {row.image_id for row in rejected}
    missing = [request for request in rows.requests if request.image_id not in accounted]
    listed = [*rejected, *(rejected_image(rows, request, REPAIR_REASON) for request in missing)]
    name = storage.put_alongside(repair_file(last), rejected_bytes(shard, listed)) if listed else ""
    replace_part(storage, last, at_fault, name)
    for part in parts[:-1]:
        replace_part(storage, part, at_fault)
    if before and before != name:
        storage.remove(before)
    return sum(row.reason == REPAIR_REASON for row in listed)


def _rejected_rows(storage: Storage, name: str | None, rows: ShardRows) -> list[RejectedRow]:
    """The prompt rows that are rejected as a whole, and the rejected images in the file of this name if it is there."""
    if name is None:
        return rows.rejected
    try:
        table = read_rejected(storage, name, [column for column in REJECTED_SCHEMA.names if column != "source"])
    except (FileNotFoundError, DamagedFileError):
        return rows.rejected
    image_ids = {request.image_id for request in rows.requests}
    return [*rows.rejected, *(RejectedRow(**row) for row in table.to_pylist() if row["image_id"] in image_ids)]


def remove_orphans(storage: Storage, orphans: Iterable[str], parts: Iterable[str]) -> Cleaning:
    """Remove orphans that no running attempt can commit any more.

    Those of a committed part go at once: no later attempt at it changes the files that the part names. Those of other
    parts, and all of them if the store has no conditional create, go once they are a day old.
    """
    cleaning, committed = Cleaning(), set(parts)
    for name in orphans:
        is_settled = storage.can_create and part_of_file(name) in committed and not name.endswith(DRAFT)
        if is_settled or storage.age(name) > LIVE_SECONDS:
            storage.remove(name)
            cleaning.removed.append(name)
        else:
            cleaning.kept.append(name)
    return cleaning
