"""The selection of images that a report shows: all of them, or prompts spread evenly over the job plus the clearest
matches of the quality rules and the best and worst scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from workflows.output.manifest import NUM_READERS, kind_of_part, own_schema
from workflows.output.parts import read_part
from workflows.report.carried import MAX_CARRIED, carried_texts
from workflows.report.quality_rules import NEAR_DUPLICATE, QUALITY_RULES, RULE_NAMES, hash_values
from workflows.report.scores import Scores
from workflows.report.survey import STATISTICS, ShardCount, Survey
from workflows.report.thumbnails import Form, make_thumbnail, read_thumbnails
from workflows.storage.store import Storage

MAX_IMAGES = 10_000
MIN_SEEDS = 4  # per prompt; fewer prompts are selected before fewer seeds
MAX_PACKS = 40  # a pack is read whole, so a selection comes from a few of them
# (most images, pixels of a thumbnail): a page of photographs stays below about 30 MB.
THUMBNAIL_SIZES = ((1_000, 208), (3_000, 144))
SMALLEST_THUMBNAIL = 112
MAX_LOSSLESS_PIXELS = 24_000_000  # of all images together: about 30 MB of noise, and less than 10 MB of drawings
BULK_COLUMNS = ("codes", "latents", "cfg_interval")  # of the manifest, not shown

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images to show: for each shard, prompts by their position in the shard, each with its first `num_seeds` seeds
    at every weight; and the rows that are shown only for a quality rule or a score."""

    prompts: dict[str, list[int]]
    num_seeds: int
    matched_rows: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectedImage:
    """A manifest row, the names of the quality rules that match it, and its thumbnail (None if unreadable).

    `carried` are columns of the prompt file. `is_extra` marks an image that is shown only for a rule or a score.
    `folder` is the output as a page names it: empty on the page of the output itself, None if it cannot be linked to.
    """

    row: dict[str, Any]
    rules: tuple[str, ...]
    carried: dict[str, str]
    scores: dict[str, float]
    is_extra: bool
    thumbnail: bytes | None = None
    folder: str | None = ""


def select_images(survey: Survey, *, num_seeds: int, is_packed: bool, max_images: int | None = None) -> Selection:
    """All images if there are at most `max_images`, else a selection. `num_seeds` is the job's images_per_prompt."""
    max_images = max_images or MAX_IMAGES
    if survey.num_images <= max_images:
        everything = {shard.shard_id: list(range(shard.num_prompts)) for shard in survey.shards}
        return Selection(prompts=everything, num_seeds=num_seeds, matched_rows={})
    shards = spread(survey.shards, MAX_PACKS) if is_packed else survey.shards
    num_prompts = sum(shard.num_prompts for shard in shards)
    per_seed = survey.num_images / survey.num_prompts / num_seeds  # weights per prompt and seed
    shown_seeds = min(num_seeds, max(MIN_SEEDS, int(max_images / (num_prompts * per_seed))))
    num_shown = max(1, int(max_images / (shown_seeds * per_seed)))
    return Selection(
        prompts=_by_shard(spread(range(num_prompts), num_shown), shards),
        num_seeds=shown_seeds,
        matched_rows=_matched_rows(survey, {shard.shard_id for shard in shards}),
    )


def load_images(storage: Storage, selection: Selection, near_duplicates: np.ndarray) -> list[SelectedImage]:
    """The selected images with thumbnails, in the order of the manifest; the extra ones last."""
    images = read_images(storage, selection, near_duplicates)
    return with_thumbnails(storage, sorted(images, key=lambda image: image.is_extra))


def read_images(storage: Storage, selection: Selection, near_duplicates: np.ndarray) -> list[SelectedImage]:
    """The selected images without thumbnails, in the order of the manifest."""
    shard_ids, scores = sorted(set(selection.prompts) | set(selection.matched_rows)), Scores(storage)

    def read(shard_id: str) -> list[SelectedImage]:
        return _read_rows(storage, shard_id, selection, near_duplicates, scores)

    with ThreadPoolExecutor(NUM_READERS) as readers:
        return [image for part in readers.map(read, shard_ids) for image in part]


def with_thumbnails(
    storage: Storage, images: Sequence[SelectedImage], packed: Mapping[str, bytes] | None = None
) -> list[SelectedImage]:
    """The images with thumbnails in the size for so many, and without loss if their pixels are few.

    `packed` are bytes by location of images whose packs are not written yet.
    """
    num_pixels = sum(image.row["width"] * image.row["height"] for image in images)
    form = Form(size=thumbnail_size(len(images)), is_lossless=num_pixels <= MAX_LOSSLESS_PIXELS)
    made = {name: make_thumbnail(data, form) for name, data in (packed or {}).items()}
    rows = [image.row for image in images if image.row["image"] not in made]
    made |= read_thumbnails(storage, {row["image"]: row["image_sha256"] for row in rows}, form)
    return [replace(image, thumbnail=made[image.row["image"]]) for image in images]


def thumbnail_size(num_images: int) -> int:
    """Pixels of the longer side."""
    return next((size for most, size in THUMBNAIL_SIZES if num_images <= most), SMALLEST_THUMBNAIL)


def spread(items: Sequence[Item], num: int) -> Sequence[Item]:
    """`num` of the items at even distances, or all of them if there are fewer."""
    count = len(items)
    return items if count <= num else [items[(2 * i + 1) * count // (2 * num)] for i in range(num)]


def _by_shard(positions: Sequence[int], shards: Sequence[ShardCount]) -> dict[str, list[int]]:
    """Positions among the prompts of all shards, as positions within each shard."""
    starts = np.cumsum([0, *(shard.num_prompts for shard in shards)])
    found: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        index = int(np.searchsorted(starts, position, side="right")) - 1
        found[shards[index].shard_id].append(position - int(starts[index]))
    return dict(found)


def _matched_rows(survey: Survey, shard_ids: set[str]) -> dict[str, list[int]]:
    """The rows of these shards that are among the clearest matches of a rule, or the best or worst by a score."""
    rows: dict[str, list[int]] = defaultdict(list)
    for match in (match for clearest in survey.clearest.values() for match in clearest):
        if match.shard_id in shard_ids:
            rows[match.shard_id].append(match.row)
    return dict(rows)


def _read_rows(
    storage: Storage, shard_id: str, selection: Selection, near_duplicates: np.ndarray, scores: Scores
) -> list[SelectedImage]:
    """The selected rows of one manifest part, without thumbnails."""
    table = read_part(storage, shard_id)
    prompts = np.asarray(table["prompt_id"].combine_chunks().dictionary_encode().indices)
    is_selected = np.isin(prompts, selection.prompts.get(shard_id, []))
    is_selected &= table["image_index"].to_numpy() < selection.num_seeds
    shown = np.union1d(np.flatnonzero(is_selected), selection.matched_rows.get(shard_id, [])).astype(np.int64)
    return images_of(table, shown, is_selected, scores.of_rows(shard_id, table), near_duplicates)


def images_of(
    table: pa.Table,
    shown: np.ndarray,
    is_selected: np.ndarray,
    scores: dict[str, np.ndarray],
    near_duplicates: np.ndarray,
) -> list[SelectedImage]:
    """The rows `shown` of a manifest part, int64 [num_shown], without thumbnails. `is_selected`, bool [num_rows], and
    `scores`, float32 [num_rows], are of all its rows."""
    rows = table.select([name for name in _own_names(table) if name not in BULK_COLUMNS]).take(shown)
    carried = carried_texts(_carried(table), shown)
    found = [
        {name: float(values[row]) for name, values in scores.items() if not np.isnan(values[row])} for row in shown
    ]
    return [
        SelectedImage(row=row, rules=rules, carried=texts, scores=of_row, is_extra=not is_selected[position])
        for row, rules, texts, of_row, position in zip(
            rows.to_pylist(), _rules_of(rows, near_duplicates), carried, found, shown, strict=True
        )
    ]


def _own_names(table: pa.Table) -> list[str]:
    """The manifest's columns, with those of the judge if the part is judged."""
    return list(own_schema(kind_of_part(table.schema.metadata)).names)


def _carried(table: pa.Table) -> pa.Table:
    """The first carried columns without lists and structs, as the groups of the survey are."""
    own = set(_own_names(table))
    flat = [field.name for field in table.schema if field.name not in own and not pa.types.is_nested(field.type)]
    return table.select(flat[:MAX_CARRIED])


def _rules_of(rows: pa.Table, near_duplicates: np.ndarray) -> list[tuple[str, ...]]:
    """For each row, the names of the rules that match it."""
    columns = {name: rows[name].to_numpy() for name in STATISTICS}
    matches = {rule.name: rule.matches(columns) for rule in QUALITY_RULES}
    matches[NEAR_DUPLICATE] = np.isin(hash_values(rows["perceptual_hash"].to_pylist()), near_duplicates)
    return [tuple(name for name in RULE_NAMES if matches[name][i]) for i in range(rows.num_rows)]
