"""Manifest parts as the verbs that show or copy an output read them: every column, type and file name is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from actors.errors import shown
from workflows.output.encode import EXTENSIONS
from workflows.output.manifest import kind_of_part, manifest_name, marks_of, own_schema, part_errors
from workflows.storage.parquet import check_names, open_parquet, typed_column
from workflows.storage.store import Storage

_EXTENSIONS = "|".join(EXTENSIONS.values())
_ID = (r"^[^./\\[:cntrl:]][^/\\[:cntrl:]]*$", "text without / or \\ that does not begin with a dot")
_LOCATION = r"^images(/[^./\\#[:cntrl:]][^/\\#[:cntrl:]]*)+(#[^./\\[:cntrl:]][^/\\[:cntrl:]]*)?"
# Ids become file names, and the locations of images are read: neither may lead out of its folder. RE2, and in words.
PATTERNS = {
    "image_id": _ID,
    "prompt_id": _ID,
    "image": (rf"{_LOCATION}\.({_EXTENSIONS})$", "an image file below images/"),
    "latents": (rf"{_LOCATION}\.npy$", "a file of latents below images/"),
    "perceptual_hash": ("^[0-9a-f]{16}$", "16 hexadecimal digits"),
}
_PATTERNS_OF = {"answers": {"image_id": _ID, "prompt_id": _ID}}  # their images are the user's, and are not read
_ALL_COLUMNS = own_schema("judged")
FIRST_MOMENT, LAST_MOMENT = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1, 9999))


def read_part(storage: Storage, part: str, columns: Sequence[str] | None = None, *, num_carried: int = 0) -> pa.Table:
    """The rows of a manifest part: the manifest's columns, or those named, in the manifest's types; then the carried
    columns as they are: all, or if `columns` are named the first `num_carried` without lists and structs.

    A nullable column that the part does not have is all null, and so is a column of the judge that is named where
    nothing was judged. Raises FileNotFoundError, and DamagedFileError for a missing column, a value of the wrong type,
    or an id or location that would lead out of the output. `kind_of_part` takes the metadata of the table, too.
    """
    name = manifest_name(part)
    data = storage.read(name)
    with part_errors(storage, name):
        file = open_parquet(data)
        own = own_schema(kind := kind_of_part(file.schema_arrow.metadata))
        present = file.schema_arrow.names
        wanted = own.names if columns is None else columns
        others = [field for field in file.schema_arrow if field.name not in {*own.names, *wanted}]
        flat = [field for field in others if not pa.types.is_nested(field.type)]
        carried = [field.name for field in (others if columns is None else flat[:num_carried])]
        due = [column for column in wanted if column in own.names and _is_due(own.field(column), present)]
        check_names(file.schema_arrow, [*due, *carried])
        read = [column for column in due if column in present]
        table = file.read(None if columns is None else [*read, *carried])
        fields = [(own if column in own.names else _ALL_COLUMNS).field(column) for column in wanted]
        found = [_own_column(table.select(read), field, _PATTERNS_OF.get(kind, PATTERNS)) for field in fields]
        read_table = pa.table([*found, *(table[column] for column in carried)], names=[*wanted, *carried])
        return read_table.replace_schema_metadata(marks_of(kind))


def _is_due(field: pa.Field, present: Sequence[str]) -> bool:
    """Whether a part must have a column of the manifest: a nullable one may be absent."""
    return field.name in present or not field.nullable


def _own_column(table: pa.Table, field: pa.Field, patterns: Mapping[str, tuple[str, str]]) -> pa.ChunkedArray:
    """A column of the manifest in its type. Raises ArrowInvalid for values that no manifest of ours holds."""
    name = field.name
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = typed_column(table, field)
    if not field.nullable and pa.types.is_floating(field.type):
        _check_all(name, column, pc.is_finite(column), "a finite number")
    if pa.types.is_timestamp(field.type):
        moments = column.cast(pa.int64())
        is_real = pc.and_(pc.greater_equal(moments, FIRST_MOMENT), pc.less(moments, LAST_MOMENT))
        _check_all(name, moments, is_real, "a moment from the year 1 to 9998")
    if name in patterns:
        pattern, expected = patterns[name]
        _check_all(name, column, pc.match_substring_regex(column, pattern), expected)
    return column


def _check_all(name: str, column: pa.ChunkedArray, is_right: pa.ChunkedArray, expected: str) -> None:
    """Raise ArrowInvalid with the first value that is not right."""
    row = pc.index(is_right, False).as_py()
    if row >= 0:
        raise pa.ArrowInvalid(f"{name} of row {row} must be {expected}, got {shown(column[row].as_py())}")
