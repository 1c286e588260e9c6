"""Which pictures of an output a page shows: all of them, or prompts spread evenly over the job and the flagged ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from workflows.output.manifest import MANIFEST_SCHEMA, NUM_READERS, manifest_name, read_table
from workflows.report.quality_rules import FLAG_NAMES, FLAGS, LOOKALIKE, hash_values
from workflows.report.survey import STATISTICS, ShardCount, Survey
from workflows.report.thumbnails import read_thumbnails
from workflows.storage.store import Storage

MAX_IMAGES = 10_000
MIN_SEEDS = 4  # of a shown prompt; below that, prompts are left out rather than seeds
MAX_PACKS = 40  # a pack is read whole for its pictures, so a sample comes from a few
# Up to so many pictures, thumbnails of so many pixels: a page of photographs stays below about 30 MB.
THUMBNAIL_SIZES = ((1_000, 208), (3_000, 144))
SMALLEST_THUMBNAIL = 112
MAX_CARRIED, MAX_CARRIED_CHARACTERS = 6, 100

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The pictures to show: by shard, the prompts (their places among the shard's), each with its first `num_seeds`
    seeds at every weight; and the rows shown for their flags alone."""

    prompts: dict[str, list[int]]
    num_seeds: int
    flagged_rows: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """A manifest row with its flags and its thumbnail (WebP bytes; None where the file is gone or broken).

    `carried` are columns of the prompt file. `is_sampled` is False for a picture shown for its flags alone.
    """

    row: dict[str, Any]
    flags: tuple[str, ...]
    carried: dict[str, str]
    is_sampled: bool
    thumbnail: bytes | None = None


def choose_pictures(survey: Survey, *, num_seeds: int, is_packed: bool, max_images: int = MAX_IMAGES) -> Choice:
    """All pictures if they are no more than `max_images`, else a sample; `num_seeds` is the job's images per prompt."""
    if survey.num_images <= max_images:
        everything = {shard.shard_id: list(range(shard.num_prompts)) for shard in survey.shards}
        return Choice(prompts=everything, num_seeds=num_seeds, flagged_rows={})
    shards = spread(survey.shards, MAX_PACKS) if is_packed else survey.shards
    num_prompts = sum(shard.num_prompts for shard in shards)
    per_seed = survey.num_images / survey.num_prompts / num_seeds  # images of one prompt and seed: the weights
    shown_seeds = min(num_seeds, max(MIN_SEEDS, int(max_images / (num_prompts * per_seed))))
    num_shown = max(1, int(max_images / (shown_seeds * per_seed)))
    return Choice(
        prompts=_locate(spread(range(num_prompts), num_shown), shards),
        num_seeds=shown_seeds,
        flagged_rows=_flagged_rows(survey, {shard.shard_id for shard in shards}),
    )


def load_pictures(storage: Storage, choice: Choice, lookalikes: np.ndarray) -> list[Picture]:
    """The chosen pictures in the order of the manifest, those shown for their flags last."""
    shard_ids = sorted(set(choice.prompts) | set(choice.flagged_rows))
    with ThreadPoolExecutor(NUM_READERS) as readers:
        parts = readers.map(lambda shard_id: _read_rows(storage, shard_id, choice, lookalikes), shard_ids)
        pictures = sorted((picture for part in parts for picture in part), key=lambda picture: not picture.is_sampled)
    places = [picture.row["image"] for picture in pictures]
    thumbnails = read_thumbnails(storage, places, thumbnail_size(len(pictures)))
    return [replace(picture, thumbnail=thumbnail) for picture, thumbnail in zip(pictures, thumbnails, strict=True)]


def thumbnail_size(num_pictures: int) -> int:
    """Pixels of the longer side."""
    return next((size for most, size in THUMBNAIL_SIZES if num_pictures <= most), SMALLEST_THUMBNAIL)


def spread(items: Sequence[Item], num: int) -> Sequence[Item]:
    """`num` of the items at even distances, all if there are no more."""
    count = len(items)
    return items if count <= num else [items[(2 * i + 1) * count // (2 * num)] for i in range(num)]


def _locate(positions: Sequence[int], shards: Sequence[ShardCount]) -> dict[str, list[int]]:
    """Positions among the prompts of all shards, as positions within each shard."""
    starts = np.cumsum([0, *(shard.num_prompts for shard in shards)])
    places: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        index = int(np.searchsorted(starts, position, side="right")) - 1
        places[shards[index].shard_id].append(position - int(starts[index]))
    return dict(places)


def _flagged_rows(survey: Survey, shard_ids: set[str]) -> dict[str, list[int]]:
    """The strongest cases of each flag that lie in these shards."""
    rows: dict[str, list[int]] = defaultdict(list)
    for case in (case for worst in survey.worst.values() for case in worst):
        if case.shard_id in shard_ids:
            rows[case.shard_id].append(case.row)
    return dict(rows)


def _read_rows(storage: Storage, shard_id: str, choice: Choice, lookalikes: np.ndarray) -> list[Picture]:
    """The chosen rows of one manifest part, without thumbnails."""
    table = read_table(storage, manifest_name(shard_id))
    prompts = np.asarray(table["prompt_id"].combine_chunks().dictionary_encode().indices)
    is_sampled = np.isin(prompts, choice.prompts.get(shard_id, []))
    is_sampled &= table["image_index"].to_numpy() < choice.num_seeds
    chosen = np.union1d(np.flatnonzero(is_sampled), choice.flagged_rows.get(shard_id, [])).astype(np.int64)
    ours = [name for name in MANIFEST_SCHEMA.names if name not in ("codes", "latents", "cfg_interval")]
    rows = table.select(ours).take(chosen)
    carried = _carried(table.drop_columns(MANIFEST_SCHEMA.names), chosen)
    return [
        Picture(row=row, flags=flags, carried=values, is_sampled=bool(is_sampled[position]))
        for row, flags, values, position in zip(
            rows.to_pylist(), _flags_of(rows, lookalikes), carried, chosen, strict=True
        )
    ]


def _flags_of(rows: pa.Table, lookalikes: np.ndarray) -> list[tuple[str, ...]]:
    columns = {name: rows[name].to_numpy() for name in STATISTICS}
    holds = {flag.name: flag.holds(columns) for flag in FLAGS}
    holds[LOOKALIKE] = np.isin(hash_values(rows["perceptual_hash"].to_pylist()), lookalikes)
    return [tuple(name for name in FLAG_NAMES if holds[name][i]) for i in range(rows.num_rows)]


def _carried(table: pa.Table, chosen: np.ndarray) -> list[dict[str, str]]:
    """Of the chosen rows, the carried columns that are text or plain numbers. Text may be anything, even not UTF-8."""
    rows: list[dict[str, str]] = [{} for _ in chosen]
    for name in table.column_names[:MAX_CARRIED]:
        column = table[name].take(chosen)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = [
                None if v is None else v.decode("utf-8", "replace") for v in column.cast(pa.large_binary()).to_pylist()
            ]
        elif pa.types.is_primitive(column.type):
            values = column.to_pylist()
        else:
            continue
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = str(value)[:MAX_CARRIED_CHARACTERS]
    return rows
