"""Parquet files that the Hugging Face hub shows and `datasets` reads, with the images inside.

A page index lets a viewer read single rows. Content-defined chunks (https://huggingface.co/blog/parquet-cdc) let an
upload of a changed dataset send only what changed.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.layout import ExportLayout, ExportPair, Place, Written, pattern_of
from workflows.export.layouts.tables import image_column, image_table, pair_rows, with_columns

Item = TypeVar("Item", ExportImage, ExportPair)

MAX_FILE_BYTES = 256 * 2**20  # held in memory
GROUP_BYTES = 32 * 2**20  # of images: a viewer loads a row group in a moment
GROUP_ROWS = 10_000
_CHUNKING = "use_content_defined_chunking"  # pyarrow 21 and later
_OPTIONS = {_CHUNKING: True} if _CHUNKING in inspect.signature(pq.ParquetWriter).parameters else {}


def write_tables(
    place: Place, items: Iterator[Item], table_of: Callable[[Sequence[Item]], pa.Table], *, image_columns: Sequence[str]
) -> Written:
    """Write the items into `<shard>-<number>.parquet`, a row group for each table. `image_columns` are structs with the
    bytes of images."""
    written, prompt_ids, number = Written(), set[str](), 0
    groups = groups_of(items)
    group: list[Item] | None = next(groups, None)
    while group:
        buffer, writer = io.BytesIO(), None
        while group and buffer.tell() < MAX_FILE_BYTES:
            table = table_of(group)
            writer = writer or _open_writer(buffer, table.schema, image_columns)
            writer.write_table(table, row_group_size=len(group))
            prompt_ids |= {image.prompt_id for item in group for image in images_of(item)}
            written += count_of_items(group)
            group = next(groups, None)
        assert writer is not None
        writer.close()
        place.write(f"{place.data_folder}{place.shard_id}-{number:03d}.parquet", buffer.getvalue())
        number += 1
    return written + Written(num_prompts=len(prompt_ids), num_files=number)


def images_of(item: ExportImage | ExportPair) -> tuple[ExportImage, ...]:
    return (item,) if isinstance(item, ExportImage) else (item.chosen, item.rejected)


def groups_of(items: Iterator[Item]) -> Iterator[list[Item]]:
    """The items of each row group."""
    group: list[Item] = []
    num_bytes = 0
    for item in items:
        group.append(item)
        num_bytes += sum(len(image.data) for image in images_of(item))
        if num_bytes >= GROUP_BYTES or len(group) >= GROUP_ROWS:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def count_of_items(items: Sequence[ExportImage] | Sequence[ExportPair]) -> Written:
    images = [image for item in items for image in images_of(item)]
    num_pairs = sum(isinstance(item, ExportPair) for item in items)
    num_bytes = sum(len(image.data) for image in images)
    return Written(num_images=len(images), num_bytes=num_bytes, num_pairs=num_pairs)


def _open_writer(buffer: io.BytesIO, schema: pa.Schema, image_columns: Sequence[str]) -> pq.ParquetWriter:
    """Image files are compressed already, and no two are the same: neither compression nor a dictionary helps."""
    leaves, as_they_are = _leaf_names(schema), tuple(f"{name}." for name in image_columns)
    packed = [name for name in leaves if not name.startswith(as_they_are)] if as_they_are else leaves
    features = {name: {"_type": "Image"} for name in image_columns}
    return pq.ParquetWriter(
        buffer,
        schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        compression={name: "ZSTD" if name in packed else "NONE" for name in leaves},
        use_dictionary=packed,
        write_page_index=True,
        write_page_checksum=True,
        **_OPTIONS,
    )


def _leaf_names(schema: pa.Schema) -> list[str]:
    """The paths of the innermost columns, as Parquet has them."""
    buffer = io.BytesIO()
    pq.ParquetWriter(buffer, schema).close()
    columns = pq.read_metadata(buffer).schema
    return [columns.column(index).path for index in range(len(columns))]


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`data/<shard>-<number>.parquet` with the column `image`, and the manifest's columns."""
    return write_tables(place, images, image_table, image_columns=["image"])


def _write_pairs(place: Place, pairs: Iterator[ExportPair], recipe: Recipe) -> Written:
    """The same files with the columns of a preference dataset: `prompt`, `chosen`, `rejected` and their scores."""
    return write_tables(
        place,
        pairs,
        lambda group: preference_table(group, image_column, place.score_names),
        image_columns=["chosen", "rejected"],
    )


def preference_table(
    pairs: Sequence[ExportPair], column: Callable[[Sequence[ExportImage]], pa.Array], score_names: Iterable[str]
) -> pa.Table:
    """The columns that trainers of the DPO kind read, filled by `column`; then those of both images' rows.

    https://huggingface.co/docs/trl/dataset_formats#preference
    """
    rows = pair_rows(pairs, ("chosen_*", "rejected_*"), score_names)
    columns = {
        "prompt": rows["prompt"].combine_chunks(),
        "chosen": column([pair.chosen for pair in pairs]),
        "rejected": column([pair.rejected for pair in pairs]),
        "score_chosen": pa.array([pair.score_chosen for pair in pairs], pa.float64()),
        "score_rejected": pa.array([pair.score_rejected for pair in pairs], pa.float64()),
    }
    return with_columns(columns, rows.drop_columns(["prompt"]))


# The columns of `preference_table`, for the card.
PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "chosen_*", "rejected_*")

PARQUET = ExportLayout(
    write=_write,
    write_pairs=_write_pairs,
    pattern=pattern_of("parquet"),
    own_columns=("image",),
    pair_columns=PREFERENCE_COLUMNS,
    how_to_read=("python", 'import datasets\ndatasets.load_dataset("DEST")'),
)
