"""Export an output in the layout that another program reads, with a dataset card: shard by shard, streaming.

`.export/` in the destination holds a claim and a mark for each finished shard; the card is written last. The same
command resumes an interrupted export, and adds the images that the output gained since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.recipe import Recipe
from workflows.export.card import CardFacts, dataset_card
from workflows.export.destination import (
    CARD_FILE,
    FilesMissingError,
    check_files,
    claim_destination,
    read_mark,
    write_mark,
)
from workflows.export.images import images_by_prompt, images_of_shard
from workflows.export.inventory import Inventory, take_inventory
from workflows.export.layout import ExportError, ExportLayout, Written
from workflows.export.layouts import EXPORT_LAYOUTS
from workflows.output.claim import Claim, read_claim
from workflows.output.manifest import committed_parts, parts_of_shards
from workflows.output.remaining import completion_of
from workflows.output.tally import tally_output
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """The counts of a finished export. `num_shards_before` of its shards were there when it started; `num_missing`
    images of the output are not rendered yet (None if the prompts are gone)."""

    written: Written
    num_shards: int
    num_shards_before: int
    num_missing: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What the writing of the shards needs."""

    source: Storage
    dest: Storage
    layout: ExportLayout
    recipe: Recipe
    inventory: Inventory


def export_output(
    source: Storage,
    dest: Storage,
    layout: str,
    *,
    license_id: str | None = None,
    allow_incomplete: bool = False,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
) -> Export:
    """Write every committed image of an output into `dest`.

    Raises ExportError, ColumnError, StorageError or DamagedFileError, and FilesMissingError if files are missing
    from `dest` at the end.
    """
    with storage_errors(source.url):
        claim, parts = read_claim(source), committed_parts(source)
        num_missing = _check_complete(source, claim, parts, allow_incomplete)
        shards = parts_of_shards(parts)
        inventory = take_inventory(source, shards, EXPORT_LAYOUTS[layout], claim.recipe)
        tally = tally_output(source.url, source.options)
    work = _Work(source=source, dest=dest, layout=EXPORT_LAYOUTS[layout], recipe=claim.recipe, inventory=inventory)
    with storage_errors(dest.url):
        claim_destination(dest, source, {"output": source.url, "layout": layout, "recipe": claim.recipe.to_dict()})
        counts, num_shards_before = _write_shards(work, shards, on_shard)
        written = sum(counts, Written())
        check_files(dest, written)
        facts = CardFacts(
            claim=claim, layout=layout, written=written, tally=tally, schema=inventory.schema, license_id=license_id
        )
        dest.write(CARD_FILE, dataset_card(facts).encode())
    return Export(written=written, num_shards=len(shards), num_shards_before=num_shards_before, num_missing=num_missing)


def _check_complete(source: Storage, claim: Claim, parts: list[str], allow_incomplete: bool) -> int | None:
    """The number of images that are not rendered yet; None if the prompts are gone. Raises ExportError."""
    if not parts:
        raise ExportError(f"{source.url} holds no committed images yet")
    completion = completion_of(source, claim, parts)
    if not completion.is_finished and not allow_incomplete:
        missing = "an unknown number of" if completion.num_missing is None else f"{completion.num_missing:,}"
        raise ExportError(
            f"{source.url} is not complete ({missing} images are missing); finish it with `janus-batch render`, or "
            "export the images it has with --allow-incomplete"
        )
    return completion.num_missing


def _write_shards(
    work: _Work, shards: Sequence[Sequence[str]], on_shard: Callable[[int, int], None]
) -> tuple[list[Written], int]:
    """The counts of all shards, and how many of the shards were already there."""
    counts, num_shards_before = [], 0
    for number, parts in enumerate(shards, start=1):
        # Named after the last part: a shard that got a retry since is written again, with its new images.
        written = read_mark(work.dest, parts[-1], work.inventory.schema)
        if written is None or _num_promised(written) != work.inventory.num_images[parts[0]]:
            written = _write_shard(work, parts)
            write_mark(work.dest, parts[-1], work.inventory.schema, written)
        else:
            num_shards_before += 1
        counts.append(written)
        on_shard(number, len(shards))
    return counts, num_shards_before


def _write_shard(work: _Work, parts: Sequence[str]) -> Written:
    read = images_by_prompt if work.layout.wants_whole_prompts else images_of_shard
    images = read(work.source, parts, work.inventory.schema)
    written = work.layout.write(work.dest, parts[0], images, work.recipe)
    num_images = work.inventory.num_images[parts[0]]
    if _num_promised(written) != num_images:
        raise FilesMissingError(
            f"{num_images:,} images of shard {parts[0]} were read, {_num_promised(written):,} written"
        )
    return written


def _num_promised(written: Written) -> int:
    """The images that a shard must have: in files, or left out for a reason that is reported."""
    return written.num_images + written.num_left_out
