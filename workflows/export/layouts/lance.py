"""Lance datasets: a table of images and columns with fast random access, `data/<split>.lance`.

https://lance.org. A shard is a fragment, whose file Lance names at random. The fragments become a dataset by one commit
after the last shard, as in https://lance.org/guide/distributed_write.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING

import pyarrow as pa

from actors.errors import reason_line
from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.layout import ExportError, ExportLayout, ExportPair, Place, Whole, Written
from workflows.export.layouts.parquet import (
    PREFERENCE_COLUMNS,
    Item,
    count_of_items,
    groups_of,
    images_of,
    preference_table,
)
from workflows.export.layouts.tables import with_columns
from workflows.storage.damage import DamagedFileError

if TYPE_CHECKING:
    from workflows.storage.store import Storage

TRIAL = "memory://trial"  # Lance takes what is not a URL, such as a name with a space after `memory://`, for a folder


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    return _write_fragments(place, images, _image_table)


def _write_pairs(place: Place, pairs: Iterator[ExportPair], recipe: Recipe) -> Written:
    return _write_fragments(place, pairs, lambda group: preference_table(group, _bytes_column, place.score_names))


def _image_table(images: Sequence[ExportImage]) -> pa.Table:
    return with_columns({"image": _bytes_column(images)}, pa.concat_tables([image.record for image in images]))


def _bytes_column(images: Sequence[ExportImage]) -> pa.Array:
    return pa.array([image.data for image in images], pa.large_binary())


def _write_fragments(place: Place, items: Iterator[Item], table_of: Callable[[Sequence[Item]], pa.Table]) -> Written:
    """Write the items as a fragment that `_finish` commits."""
    from lance.fragment import write_fragments

    written, prompt_ids = Written(), set[str]()

    def tables() -> Iterator[pa.Table]:
        nonlocal written
        for group in groups_of(items):
            written += count_of_items(group)
            prompt_ids.update(image.prompt_id for item in group for image in images_of(item))
            yield table_of(group)

    stream = tables()
    first = next(stream)
    # Lance 14 panics on a list in a struct that is a slice of a longer array.
    batches = (batch for table in chain([first], stream) for batch in table.combine_chunks().to_batches())
    reader = pa.RecordBatchReader.from_batches(first.schema, batches)
    folder = _dataset_folder(place.split)
    fragments = write_fragments(reader, place.dest.path(folder), mode="overwrite")
    assert isinstance(fragments, list)
    place.details += [json.dumps(fragment.to_json()) for fragment in fragments]
    place.names += [f"{folder}/data/{file.path}" for fragment in fragments for file in fragment.files]
    return written + Written(num_prompts=len(prompt_ids), num_files=len(place.names))


def read_fragment(dest: Storage, name: str) -> pa.Table:
    """The rows of a data file. Raises ExportError without Lance, and DamagedFileError."""
    lance = _lance()
    try:
        return lance.file.LanceFileReader(dest.path(name)).read_all().to_table()
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{dest.url}/{name} cannot be read: {reason_line(error)}") from error


def _finish(work: Whole) -> tuple[str, ...]:
    """Commit the fragments of every split, unless they are what its dataset holds. Returns the files of the commit."""
    names: list[str] = []
    for split, details in work.details.items():
        if details:
            folder = _dataset_folder(split or None)
            _commit(work.dest, folder, details)
            names += [name for name in work.dest.walk(folder) if not name.startswith(f"{folder}/data/")]
    return tuple(names)


def _commit(dest: Storage, folder: str, details: Sequence[str]) -> None:
    import lance
    from lance.fragment import FragmentMetadata

    fragments = [FragmentMetadata.from_json(detail) for detail in details]
    paths = [file.path for fragment in fragments for file in fragment.files]
    committed = [name for name in dest.walk(folder) if not name.startswith(f"{folder}/data/")]
    if committed:
        held = lance.dataset(dest.path(folder)).get_fragments()
        if [file.path for fragment in held for file in fragment.metadata.files] == paths:
            return
        for name in committed:  # an older version would name files that are gone
            dest.remove(name)
    schema = lance.file.LanceFileReader(dest.path(f"{folder}/data/{paths[0]}")).metadata().schema
    lance.LanceDataset.commit(dest.path(folder), lance.LanceOperation.Overwrite(schema, fragments))


def _check(recipe: Recipe, schema: pa.Schema) -> None:
    """Lance must be there, and hold every column."""
    _check_types(schema.remove_metadata())


@functools.lru_cache
def _check_types(schema: pa.Schema) -> None:
    lance = _lance()
    for field in schema:
        reason = _reason_against(field.type)
        try:
            lance.write_dataset(pa.table({field.name: pa.array([], field.type)}), TRIAL, mode="overwrite")
        except (OSError, ValueError, pa.ArrowNotImplementedError) as error:
            reason = reason_line(error)
        if reason:
            raise ExportError(
                f"layout lance: column `{field.name}` has the type {field.type}, which Lance does not hold ({reason}); "
                "use --layout parquet"
            )


def _reason_against(kind: pa.DataType) -> str:
    """Why Lance 14 fails on values of a type that it accepts as a column; empty if it does not."""
    if pa.types.is_fixed_size_list(kind) and _has_any_length(kind.value_type):
        return "a list of a fixed length with values of any length"
    children = [kind.field(index).type for index in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return next(filter(None, map(_reason_against, children)), "")


def _has_any_length(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(check(kind) for check in (*checks, pa.types.is_list, pa.types.is_large_list))


def _lance() -> ModuleType:
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of every fragment that is written before the commit
    try:
        import lance
        import lance.file
    except ImportError as error:
        raise ExportError('layout lance needs the package pylance: pip install "janus-batch[lance]"') from error
    module: ModuleType = lance
    return module


def _dataset_folder(split: str | None) -> str:
    return f"data/{split or 'train'}.lance"


LANCE = ExportLayout(
    write=_write,
    write_pairs=_write_pairs,
    check=_check,
    finish=_finish,
    is_local_only=True,
    own_columns=("image",),
    pair_columns=PREFERENCE_COLUMNS,
    how_to_read=(
        "python",
        'import io, lance\nfrom PIL import Image\n\nrows = lance.dataset("DEST/data/SPLIT.lance")\n'
        'Image.open(io.BytesIO(rows.take([0])["image"][0].as_py()))',
    ),
)
