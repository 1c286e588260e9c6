"""Manifest parts as the verbs that show or copy an output read them: every column, type and file name is checked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from workflows.output.encode import EXTENSIONS
from workflows.output.manifest import MANIFEST_SCHEMA, manifest_name, part_errors
from workflows.storage.parquet import open_parquet
from workflows.storage.store import Storage

_EXTENSIONS = "|".join(EXTENSIONS.values())
_ID = (r"^[^./\\[:cntrl:]][^/\\[:cntrl:]]*$", "text without / or \\ that does not begin with a dot")
# Ids become file names, and the locations of images are read: neither may lead out of its folder. RE2, and in words.
PATTERNS = {
    "image_id": _ID,
    "prompt_id": _ID,
    "image": (rf"^images(/[^./\\#][^/\\#]*)+(#[^./\\][^/\\]*)?\.({_EXTENSIONS})$", "an image file below images/"),
    "perceptual_hash": ("^[0-9a-f]{16}$", "16 hexadecimal digits"),
}
FIRST_MOMENT, LAST_MOMENT = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1, 9999))


def read_part(storage: Storage, part: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a manifest part: the manifest's columns, or those named, in the manifest's types; then, unless
    `columns` are named, the carried columns as they are.

    A nullable column that the part does not have is all null. Raises FileNotFoundError, and DamagedFileError for a
    missing column, a value of the wrong type, or an id or location that would lead out of the output.
    """
    name = manifest_name(part)
    data = storage.read(name)
    with part_errors(storage, name):
        file = open_parquet(data)
        present = file.schema_arrow.names
        wanted = MANIFEST_SCHEMA.names if columns is None else columns
        _check_present(present, wanted)
        table = file.read(None if columns is None else [column for column in columns if column in present])
        own = [_own_column(table, column) for column in wanted]
        carried = [column for column in table.column_names if column not in wanted]
        return pa.table([*own, *(table[column] for column in carried)], names=[*wanted, *carried])


def _check_present(present: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if present.count(name) != 1 and (present.count(name) or not MANIFEST_SCHEMA.field(name).nullable):
            raise pa.ArrowInvalid(f"it has {present.count(name)} columns `{name}`, expected one")


def _own_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of the manifest in its type. Raises ArrowInvalid for values that no manifest of ours holds."""
    field = MANIFEST_SCHEMA.field(name)
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table[name].cast(field.type)
    column.validate(full=True)
    if not field.nullable:
        _check_all(name, column, column.is_valid(), "a value")
    if not field.nullable and pa.types.is_floating(field.type):
        _check_all(name, column, pc.is_finite(column), "a finite number")
    if pa.types.is_timestamp(field.type):
        moments = column.cast(pa.int64())
        is_real = pc.and_(pc.greater_equal(moments, FIRST_MOMENT), pc.less(moments, LAST_MOMENT))
        _check_all(name, moments, is_real, "a moment from the year 1 to 9998")
    if name in PATTERNS:
        pattern, expected = PATTERNS[name]
        _check_all(name, column, pc.match_substring_regex(column, pattern), expected)
    return column


def _check_all(name: str, column: pa.ChunkedArray, is_right: pa.ChunkedArray, expected: str) -> None:
    """Raise ArrowInvalid with the first value that is not right."""
    row = pc.index(is_right, False).as_py()
    if row >= 0:
        raise pa.ArrowInvalid(f"{name} of row {row} must be {expected}, got {_shown(column[row].as_py())}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " ..."
