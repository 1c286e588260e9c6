"""Export an output in the layout that another program reads, with a dataset card: shard by shard, streaming.

`.export/` in the destination holds a claim and a mark for each finished shard; the card is written last. The same
command resumes an interrupted export, and follows the output: images and scores that it gained since are added.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.card import CardFacts, dataset_card
from workflows.export.choice import Chosen, splits_of
from workflows.export.columns import convert
from workflows.export.destination import (
    CARD_FILE,
    ExpectedFiles,
    FilesMissingError,
    Mark,
    claim_destination,
    read_mark,
    write_mark,
)
from workflows.export.images import FILES, KEYS, ExportImage, ShardTable, read_images
from workflows.export.inventory import Inventory, exported_columns, rule_columns, take_inventory
from workflows.export.layouts.layout import ExportError, ExportLayout, ExportPair, Place, Whole, Written
from workflows.export.layouts.table import EXPORT_LAYOUTS
from workflows.export.limits import check_limits, limits_of_export
from workflows.export.push import open_repository, push_export
from workflows.export.rows import read_rows
from workflows.export.rules import NO_RULES, Rules
from workflows.output.claim import Claim, read_claim
from workflows.output.manifest import committed_parts, parts_of_shards
from workflows.output.remaining import completion_of
from workflows.output.tally import tally_output
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """The counts of a finished export.

    * `written`: in all; `splits`: by split. `removed`: images that each rule removed.
    * `num_shards_before` of its shards were there when it started. `num_files_removed` files of earlier exports do not
      belong to it any more.
    * `num_missing` images of the output are not rendered yet (None if the prompts are gone).
    * `address`: the repository of the hub that it was uploaded to.
    """

    written: Written
    splits: dict[str, Written]
    removed: dict[str, int]
    num_shards: int
    num_shards_before: int
    num_files_removed: int
    num_missing: int | None
    address: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What the writing of the shards needs."""

    source: Storage
    dest: Storage
    layout: ExportLayout
    recipe: Recipe
    inventory: Inventory

    @property
    def rules(self) -> Rules:
        return self.inventory.chooser.rules


def export_output(
    source: Storage,
    dest: Storage,
    layout: str,
    *,
    rules: Rules = NO_RULES,
    license_id: str | None = None,
    allow_incomplete: bool = False,
    push_to: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
) -> Export:
    """Write the committed images of an output that the rules keep into `dest`, and upload it to the hub's repository
    `push_to`. `say` is told which limits of the hub the export exceeds, before anything is written.

    Raises ExportError, RowFilterError, ColumnError, StorageError or DamagedFileError, and FilesMissingError if files
    are missing from `dest` at the end.
    """
    chosen_layout = EXPORT_LAYOUTS[layout]
    _check_fit(layout, chosen_layout, rules, dest)
    if push_to is not None:
        open_repository(dest, push_to)
    with storage_errors(source.url):
        claim, parts = read_claim(source), committed_parts(source)
        num_missing = _check_complete(source, claim, parts, allow_incomplete)
        shards = parts_of_shards(parts)
        inventory = take_inventory(
            source, shards, chosen_layout, claim.recipe, rules, allow_incomplete=allow_incomplete
        )
        tally = tally_output(source.url, source.options)
    lines = limits_of_export(chosen_layout, inventory, len(shards))
    if push_to is not None:
        check_limits(lines, push_to)
    for line in lines:
        say(line)
    work = _Work(source=source, dest=dest, layout=chosen_layout, recipe=claim.recipe, inventory=inventory)
    with storage_errors(dest.url):
        claimed = {"output": source.url, "layout": layout, "recipe": claim.recipe.to_dict(), "rules": rules.to_dict()}
        claim_destination(dest, source, claimed)
        splits, num_shards_before, num_files_removed = _write_shards(work, shards, on_shard)
        written = sum(splits.values(), Written())
        if written.num_images + written.num_left_out != inventory.num_images:
            raise FilesMissingError(f"{source.url} was changed while it was exported")
        facts = CardFacts(
            claim=claim,
            layout=layout,
            written=written,
            splits=splits,
            tally=tally,
            inventory=inventory,
            license_id=license_id,
        )
        dest.write(CARD_FILE, dataset_card(facts).encode())
    address = None if push_to is None else push_export(dest, push_to)
    return Export(
        written=written,
        splits=splits,
        removed=inventory.removed,
        num_shards=len(shards),
        num_shards_before=num_shards_before,
        num_files_removed=num_files_removed,
        num_missing=num_missing,
        address=address,
    )


def _check_fit(name: str, layout: ExportLayout, rules: Rules, dest: Storage) -> None:
    """Raise ExportError for rules or a destination that do not fit a layout."""
    if rules.pairs is not None and layout.write_pairs is None:
        names = [other for other, one in EXPORT_LAYOUTS.items() if one.write_pairs is not None]
        raise ExportError(f"--pairs needs a layout with pairs ({', '.join(names)}), got {name}")
    if rules.pairs is None and layout.write is None:
        raise ExportError(f"layout {name} holds pairs of images; add --pairs COLUMN")
    if layout.is_local_only and not dest.is_local:
        raise ExportError(f"layout {name} is written to a local disk, got {dest.url}; upload the folder afterwards")
    if rules.splits and not layout.has_splits:
        raise ExportError(f"--split needs a layout for datasets, and {name} is the folder of a benchmark")


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
) -> tuple[dict[str, Written], int, int]:
    """The counts of all shards by split, how many shards were already there, and the number of files removed."""
    splits: dict[str, Written] = {split.name: Written() for split in work.rules.splits} or {"": Written()}
    details: dict[str, list[str]] = {split: [] for split in splits}
    whole = Whole(dest=work.dest, details=details, recipe=work.recipe, storage_options=work.source.options)
    others = work.layout.begin(whole)
    expected, num_shards_before = ExpectedFiles(), 0
    for number, parts in enumerate(shards, start=1):
        shard = _read_shard(work, parts)
        mark = read_mark(work.dest, parts[0])
        if mark is None or mark.digest != shard.digest:
            mark = _write_shard(work, parts[0], shard)
            write_mark(work.dest, parts[0], mark)
        else:
            num_shards_before += 1
        expected.add(parts[0], mark.names)
        for split, written in mark.written.items():
            splits[split] += written
            details[split] += mark.details.get(split, [])
        on_shard(number, len(shards))
    others = [*others, *work.layout.finish(whole)]
    return splits, num_shards_before, expected.check(work.dest, others)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """The rows of a shard that the export holds, with those of a pair one after the other.

    `splits` has the split of each row, `scores` the values that decided its pair (empty without pairs), and `digest`
    changes whenever one of its files would.
    """

    table: ShardTable
    splits: list[str]
    scores: list[float]
    digest: str


def _read_shard(work: _Work, parts: Sequence[str]) -> _Shard:
    with storage_errors(work.source.url):
        tables = [read_rows(work.source, part, work.inventory.scores).table for part in parts]
    rows = pa.concat_tables([rule_columns(table, work.inventory.chooser) for table in tables])
    chosen = work.inventory.chosen(rows, parts[0])
    whole = ShardTable(
        keys=pa.concat_tables([table.select([*KEYS, *FILES]) for table in tables]),
        records=pa.concat_tables(
            [convert(exported_columns(table, work.layout), work.inventory.schema) for table in tables]
        ),
    )
    positions, splits = _in_order(work, chosen, rows)
    table = whole.take(pa.array(positions, pa.int64()))
    pairs = work.inventory.chooser.pairs
    scores = [] if pairs is None else pairs.values(rows)[positions].tolist()
    digest = hashlib.sha256(repr((splits, scores, str(work.inventory.schema))).encode())
    for part in (table.keys, table.records):
        for batch in part.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return _Shard(table=table, splits=splits, scores=scores, digest=digest.hexdigest()[:32])


def _in_order(work: _Work, chosen: Chosen, rows: pa.Table) -> tuple[list[int], list[str]]:
    """The positions of the chosen rows in the order of their files, and the split of each."""
    units = [[row] for row in chosen.rows.tolist()]
    if chosen.rejected is not None:
        units = [[*unit, row] for unit, row in zip(units, chosen.rejected.tolist(), strict=True)]
    splits = [split or "" for split in splits_of(chosen, rows, work.rules)]
    order = np.arange(len(units))
    if work.layout.wants_whole_prompts:  # images of a retry come after all others of their shard
        prompts = rows["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.argsort(prompts[chosen.rows], kind="stable")
    positions = [row for index in order for row in units[index]]
    return positions, [splits[index] for index in order for _ in units[index]]


def _write_shard(work: _Work, shard_id: str, shard: _Shard) -> Mark:
    """Write the images of a shard, split by split."""
    written, names, details = dict[str, Written](), list[str](), dict[str, list[str]]()
    num_of_split = Counter(shard.splits)
    score_names = frozenset(one.name for one in work.inventory.scores)
    for split, num_images in num_of_split.items():
        rows = [row for row, of_row in enumerate(shard.splits) if of_row == split]
        place = Place(work.dest, shard_id, split or None, score_names)
        images = read_images(work.source, shard.table.take(pa.array(rows)), with_pixels=work.layout.has_pixels)
        counts = _write_images(work, place, images, [shard.scores[row] for row in rows] if shard.scores else [])
        if (num_promised := counts.num_images + counts.num_left_out) != num_images:
            raise FilesMissingError(f"{num_images:,} images of shard {shard_id} were read, {num_promised:,} written")
        written[split] = counts
        names += place.names
        details[split] = place.details
    return Mark(digest=shard.digest, written=written, names=sorted(names), details=details)


def _write_images(work: _Work, place: Place, images: Iterator[ExportImage], scores: Sequence[float]) -> Written:
    """`_check_fit` has seen that the layout has the function that is needed here."""
    if work.rules.pairs is None:
        assert work.layout.write is not None
        return work.layout.write(place, images, work.recipe)
    assert work.layout.write_pairs is not None
    return work.layout.write_pairs(place, _pairs(images, scores), work.recipe)


def _pairs(images: Iterator[ExportImage], scores: Sequence[float]) -> Iterator[ExportPair]:
    """The images two by two: the chosen one first."""
    for number, chosen in enumerate(images):
        yield ExportPair(
            chosen=chosen,
            rejected=next(images),
            score_chosen=scores[2 * number],
            score_rejected=scores[2 * number + 1],
        )
