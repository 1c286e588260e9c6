"""What an export will hold, determined before anything is written: its columns, and the images of each shard.

Two images that would share a file are refused here, and so are columns that the layout cannot hold.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from actors.errors import shown
from actors.recipe import Recipe
from workflows.export.columns import ColumnError, common_schema, convert, exported_schema, needs_text
from workflows.export.images import LEFT_OUT
from workflows.export.layout import ExportError, ExportLayout
from workflows.output.manifest import MANIFEST_SCHEMA, NUM_READERS
from workflows.output.parts import read_part
from workflows.storage.damage import DamagedFileError
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

KEYS = ["image_id", "prompt_id", "image_index", "cfg_weight"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """The columns of the export in their types, and the number of images of each shard by shard id."""

    schema: pa.Schema
    num_images: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What is kept of a manifest part: its keys, its columns, and those that readers can hold as text only."""

    shard_id: str
    keys: pa.Table
    schema: pa.Schema
    text_columns: set[str]


def take_inventory(source: Storage, shards: Sequence[Sequence[str]], layout: ExportLayout, recipe: Recipe) -> Inventory:
    """Read the manifest parts of each shard. Raises ExportError, ColumnError or DamagedFileError."""
    num_images = {parts[0]: 0 for parts in shards}
    schemas: dict[pa.Schema, None] = {}  # few, in the order of the parts
    text_columns: set[str] = set()
    names = _Names(source, layout, recipe)
    for part in _parts_in_order(source, shards, layout, recipe):
        num_images[part.shard_id] += part.keys.num_rows
        schemas[part.schema] = None
        text_columns |= part.text_columns
        names.add(part)
    try:
        schema = common_schema(exported_schema(s, text_columns, is_json=layout.is_json) for s in schemas)
    except ColumnError as error:
        raise ColumnError(f"{source.url}: {error}") from error
    if not any(num_images.values()):
        raise ExportError(f"{source.url} holds no images to export: every row is rejected")
    return Inventory(schema=schema, num_images=num_images)


def _parts_in_order(
    source: Storage, shards: Sequence[Sequence[str]], layout: ExportLayout, recipe: Recipe
) -> Iterator[_Part]:
    """Read ahead by at most the number of readers."""
    parts = [(shard[0], part) for shard in shards for part in shard]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for start in range(0, len(parts), NUM_READERS):
            chunk = parts[start : start + NUM_READERS]
            yield from readers.map(lambda pair: _read(source, pair[0], pair[1], layout, recipe), chunk)


def _read(source: Storage, shard_id: str, part: str, layout: ExportLayout, recipe: Recipe) -> _Part:
    """A part, after a check of its columns and a trial conversion."""
    table = read_part(source, part)
    keys = table.select(KEYS)
    carried = [name for name in table.column_names if name not in MANIFEST_SCHEMA.names]
    dropped = [name for name in carried if layout.carries is not None and name not in layout.carries]
    table = table.drop_columns([*LEFT_OUT, *dropped])
    text_columns = needs_text(table, is_json=layout.is_json)
    schema = exported_schema(table.schema, text_columns, is_json=layout.is_json)
    layout.check(recipe, schema)
    convert(table, schema)
    return _Part(shard_id=shard_id, keys=keys, schema=table.schema.remove_metadata(), text_columns=text_columns)


class _Names:
    """The images of the export by the file that each gets. Memory grows with prompts where prompts have files."""

    def __init__(self, source: Storage, layout: ExportLayout, recipe: Recipe) -> None:
        self._source, self._layout, self._recipe = source, layout, recipe
        self._owner_of: dict[str, tuple[str, str, str]] = {}  # folded file name -> file name, prompt id, shard id
        self._shard_id, self._seen = "", set[object]()

    def add(self, part: _Part) -> None:
        """Raise ExportError for a prompt whose file another prompt has, DamagedFileError for an image listed twice."""
        if part.shard_id != self._shard_id:
            self._shard_id, self._seen = part.shard_id, set()
        for image_id, prompt_id, image_index, weight in zip(
            *(part.keys[name].to_pylist() for name in KEYS), strict=True
        ):
            for key in (image_id, (prompt_id, image_index, weight)):
                if key in self._seen:
                    verify = f"janus-batch verify {output_arguments(self._source.url, self._source.options)}"
                    raise DamagedFileError(
                        f"{self._source.url}/manifest lists image {shown(image_id)} of shard {part.shard_id} twice; "
                        f"`{verify}` names every fault"
                    )
                self._seen.add(key)
            if self._layout.file_of is not None:
                self._take(self._layout.file_of(prompt_id, weight, self._recipe), prompt_id, part.shard_id)

    def _take(self, name: str, prompt_id: str, shard_id: str) -> None:
        folded = unicodedata.normalize("NFC", name).casefold()  # what file systems that ignore case compare
        other_name, other_id, other_shard = self._owner_of.setdefault(folded, (name, prompt_id, shard_id))
        if (prompt_id, shard_id) != (other_id, other_shard):
            both = name if name == other_name else f"{other_name} and {name}, which many file systems do not tell apart"
            raise ExportError(
                f"prompts {shown(other_id)} (shard {other_shard}) and {shown(prompt_id)} (shard {shard_id}) would "
                f"share the file {both}. Give all prompts ids (column `id`) that {self._layout.id_rule}, and render "
                "into a new output"
            )
