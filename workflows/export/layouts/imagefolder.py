"""The imagefolder layout of Hugging Face `datasets`: image files in folders, with a `metadata.parquet` in each.

https://huggingface.co/docs/datasets/image_dataset : what `file_name` and its relatives mean.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.chunks import NUM_WRITERS, chunks_of, count_of
from workflows.export.layouts.layout import ExportError, ExportLayout, Place, Written
from workflows.output.layouts import location, parquet_bytes

# A column with one of these names, or one that ends in `_` and the name, is read as the path of an image.
PATH_COLUMNS = ("file_name", "file_names")


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`<split>/<shard>/<image id>.png`, then `metadata.parquet` next to them with a row for each; nothing for a shard
    without images."""
    records, names, written = [], dict[str, str](), Written()
    folder = f"{place.split or 'train'}/{place.shard_id}"
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for chunk in chunks_of(images):
            file_names = [_free_name(image, names) for image in chunk]
            paths = [f"{folder}/{name}" for name in file_names]
            list(writers.map(place.write, paths, [image.data for image in chunk]))
            records += [image.record for image in chunk]
            written += count_of(chunk, num_files=len(chunk))
    if not records:
        return written
    table = pa.concat_tables(records)
    table = table.rename_columns(_column_names(table.column_names))
    table = table.add_column(0, "file_name", pa.array(names.values(), pa.string()))
    place.write(f"{folder}/metadata.parquet", parquet_bytes(table))
    num_prompts = len(table["prompt_id"].unique())
    return written + Written(num_prompts=num_prompts, num_files=1)


def _free_name(image: ExportImage, names: dict[str, str]) -> str:
    """A file name for the image, added to `names`: those of the shard by the form that file systems compare. Many
    ignore case, and some how an accent is encoded."""
    name = location("files", "shard", image.image_id, image.extension).rpartition("/")[2]
    stem, _, extension = name.rpartition(".")
    number = 1
    while (folded := unicodedata.normalize("NFC", name).casefold()) in names:
        number += 1
        name = f"{stem}~{number}.{extension}"
    names[folded] = name
    return name


def _check(recipe: Recipe, schema: pa.Schema) -> None:
    for field in schema:
        for name in _path_fields(field.type):
            raise ExportError(
                f"imagefolder: column `{field.name}` has a field `{name}`, which `datasets` reads as the path of an "
                "image; rename it in the prompt files, or use --layout webdataset"
            )


def _path_fields(kind: pa.DataType) -> Iterator[str]:
    """The nested fields that `datasets` would take for paths."""
    if pa.types.is_struct(kind):
        yield from (field.name for field in kind if _is_path(field.name))
    if pa.types.is_nested(kind):
        for index in range(kind.num_fields):
            yield from _path_fields(kind.field(index).type)


def _column_names(names: Sequence[str]) -> list[str]:
    """The names with `_carried` after those that `datasets` would take for paths."""
    renamed = list(names)
    for index, name in enumerate(names):
        while _is_path(name) or (name != names[index] and name in renamed):
            name += "_carried"
        renamed[index] = name
    return renamed


def _is_path(name: str) -> bool:
    return any(name == path or name.endswith(f"_{path}") for path in PATH_COLUMNS)


IMAGEFOLDER = ExportLayout(
    files_per="image",
    write=_write,
    check=_check,
    column_names=_column_names,
    pattern=lambda split: f"{split or 'train'}/**",
    own_columns=("image",),
    how_to_read=(
        "python",
        'import datasets\ndatasets.load_dataset("DEST")',
    ),
)
