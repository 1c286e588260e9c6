"""The shards of an export: their rows by the rules, in the order of their files, and the writing of these files."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.choice import Chosen, splits_of
from workflows.export.columns import convert
from workflows.export.destination import FilesMissingError, Mark
from workflows.export.images import FILES, KEYS, ExportImage, ShardTable, read_images
from workflows.export.inventory import Inventory, exported_columns, rule_columns
from workflows.export.layouts.layout import ExportLayout, ExportPair, Place, Written
from workflows.export.provenance import Credentials
from workflows.export.rows import read_rows
from workflows.export.rules import Rules
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What the writing of the shards needs."""

    source: Storage
    dest: Storage
    layout: ExportLayout
    recipe: Recipe
    inventory: Inventory
    credentials: Credentials | None

    @property
    def rules(self) -> Rules:
        return self.inventory.chooser.rules


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardToWrite:
    """The rows of a shard that the export holds, with those of a pair one after the other.

    `splits` has the split of each row, `scores` the values that decided its pair (empty without pairs), and `digest`
    changes whenever one of its files would.
    """

    table: ShardTable
    splits: list[str]
    scores: list[float]
    digest: str


def read_shard(work: Work, parts: Sequence[str]) -> ShardToWrite:
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
    return ShardToWrite(table=table, splits=splits, scores=scores, digest=digest.hexdigest()[:32])


def _in_order(work: Work, chosen: Chosen, rows: pa.Table) -> tuple[list[int], list[str]]:
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


def write_shard(work: Work, shard_id: str, shard: ShardToWrite) -> Mark:
    """Write the images of a shard, split by split."""
    written, names, details = dict[str, Written](), list[str](), dict[str, list[str]]()
    num_of_split = Counter(shard.splits)
    score_names = frozenset(one.name for one in work.inventory.scores)
    for split, num_images in num_of_split.items():
        rows = [row for row, of_row in enumerate(shard.splits) if of_row == split]
        place = Place(work.dest, shard_id, split or None, score_names)
        images = read_images(work.source, shard.table.take(pa.array(rows)), with_pixels=work.layout.has_pixels)
        hashes = _Hashes()
        images = hashes.of(_signed(work, images))
        counts = _write_images(work, place, images, [shard.scores[row] for row in rows] if shard.scores else [])
        if work.credentials is not None and work.credentials.unit == "shard":
            name = "-".join(filter(None, (shard_id, split)))
            place.write(f"provenance/{name}.zip", work.credentials.sign_hashes(name, *hashes.lists))
        if (num_promised := counts.num_images + counts.num_left_out) != num_images:
            raise FilesMissingError(f"{num_images:,} images of shard {shard_id} were read, {num_promised:,} written")
        written[split] = counts
        names += place.names
        details[split] = place.details
    return Mark(digest=shard.digest, written=written, names=sorted(names), details=details)


def _signed(work: Work, images: Iterator[ExportImage]) -> Iterator[ExportImage]:
    """The images, with a manifest in each file if that is asked for."""
    if work.credentials is None or work.credentials.unit != "image":
        return images
    return (dataclasses.replace(image, data=work.credentials.sign_image(image)) for image in images)


class _Hashes:
    """Takes note of the images that pass."""

    def __init__(self) -> None:
        self.lists: tuple[list[str], list[bytes]] = ([], [])

    def of(self, images: Iterator[ExportImage]) -> Iterator[ExportImage]:
        image_ids, hashes = self.lists
        for image in images:
            image_ids.append(image.image_id)
            hashes.append(hashlib.sha256(image.data).digest())
            yield image


def _write_images(work: Work, place: Place, images: Iterator[ExportImage], scores: Sequence[float]) -> Written:
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
