"""The columns of an export: one Arrow type per column, which `datasets` or JSON can hold.

Values are converted by Arrow's casts and not by way of Python objects, which lack dates beyond the year 9999.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from actors.errors import InputError

Leaf = Callable[[pa.DataType], pa.DataType]

# `datasets` turns times into Python objects, so they must fit into Python's range. In days since 1970.
EPOCH = datetime.date(1970, 1, 1).toordinal()
FIRST_DAY, STOP_DAY = datetime.date.min.toordinal() - EPOCH, datetime.date.max.toordinal() + 1 - EPOCH
MAX_DAYS = datetime.timedelta.max.days
UNITS_PER_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}


class ColumnError(InputError):
    """A column that an export cannot hold, by name."""


def exported_schema(schema: pa.Schema, text_columns: Iterable[str], *, is_json: bool) -> pa.Schema:
    """The types of an export; `text_columns` are those that `needs_text` found in its parts. Raises ColumnError."""
    leaf = _json_leaf if is_json else _parquet_leaf
    text_leaf = _json_text_leaf if is_json else _parquet_text_leaf
    leaves = {field.name: text_leaf if field.name in text_columns else leaf for field in schema}
    return pa.schema([(field.name, _map_leaves(field.name, field.type, leaves[field.name])) for field in schema])


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Every column of some schema, in the narrowest type that holds it in all of them. Raises ColumnError."""
    try:
        return pa.unify_schemas(list(schemas), promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise ColumnError(f"prompt files disagree on the type of a column, and no type fits both: {error}") from error


def convert(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns and types of `schema`, and nulls for columns it lacks. Raises ColumnError."""
    columns, names = [], set(table.column_names)
    for field in schema:
        if field.name not in names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            column = _cast(table[field.name], field.type)
            column.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            kind = table[field.name].type
            raise ColumnError(f"column `{field.name}` ({kind}) cannot be exported as {field.type}: {error}") from error
        columns.append(column)
    return pa.table(columns, schema=schema)


def needs_text(table: pa.Table, *, is_json: bool) -> set[str]:
    """The columns with a value that readers cannot hold except as text: dates, times and time zones that Python does
    not have, and in JSON the floats that are not finite."""

    def is_odd(leaf: pa.Array) -> bool:
        return (is_json and _has_infinite(leaf)) or _is_beyond_python(leaf)

    columns = zip(table.column_names, table.columns, strict=True)
    return {name for name, column in columns if any(is_odd(leaf) for chunk in column.chunks for leaf in _leaves(chunk))}


# ---- types ---------------------------------------------------------------------------------------------------------


def _map_leaves(name: str, kind: pa.DataType, leaf: Leaf) -> pa.DataType:
    """The type with `leaf` applied to its innermost types, and without dictionaries, maps, views and extensions."""

    def inner(kind: pa.DataType) -> pa.DataType:
        return _map_leaves(name, kind, leaf)

    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", inner(kind.key_type)), ("value", inner(kind.item_type))]))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(inner(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(inner(kind.value_type))
    if pa.types.is_struct(kind):
        if len({field.name for field in kind}) != kind.num_fields:
            raise ColumnError(f"column `{name}` ({kind}) has two fields with one name, expected different names")
        return pa.struct([pa.field(field.name, inner(field.type)) for field in kind])
    if pa.types.is_dictionary(kind):
        return inner(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return inner(kind.storage_type)
    return leaf(kind)


def _parquet_leaf(kind: pa.DataType) -> pa.DataType:
    """`datasets` overflows on whole numbers of 64 bits without a sign, such as the seeds: they become text."""
    if pa.types.is_uint64(kind):
        return pa.string()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _parquet_text_leaf(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_temporal(kind) else _parquet_leaf(kind)


def _json_leaf(kind: pa.DataType) -> pa.DataType:
    """JSON has no times, and its readers round decimals and whole numbers of 64 bits. Bytes stay, for base64."""
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.string() if pa.types.is_decimal(kind) else _parquet_text_leaf(kind)


def _json_text_leaf(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_floating(kind) else _json_leaf(kind)


# ---- values --------------------------------------------------------------------------------------------------------


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    chunks = [_without_view(chunk) for chunk in column.chunks]
    column = pa.chunked_array(chunks, chunks[0].type if chunks else _map_leaves("", column.type, _in_utc))
    # In UTC first: Arrow does not know every time zone, but prints every moment.
    return column.cast(_map_leaves("", column.type, _in_utc)).cast(kind)


def _in_utc(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz is not None else kind


def _without_view(array: pa.Array) -> pa.Array:
    """A list view as a list. Arrow's own cast drops values (pyarrow 26). Raises ArrowNotImplementedError if nested."""
    if isinstance(array, pa.ExtensionArray):
        return array.storage
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        kind = pa.ListArray if pa.types.is_list_view(array.type) else pa.LargeListArray
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
        offsets = pa.array([0, *lengths.cumsum()], pa.int32() if kind is pa.ListArray else pa.int64())
        return kind.from_arrays(offsets, array.flatten(), mask=array.is_null())
    if "list_view" in str(array.type):
        raise pa.ArrowNotImplementedError("list views inside other types are not supported")
    return array


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of the innermost values."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        yield from _leaves(array.storage)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(array.dictionary)
    elif pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(array.field(index))
    elif pa.types.is_nested(kind):
        yield from _leaves(array.flatten())
    else:
        yield array


def _has_infinite(array: pa.Array) -> bool:
    return (
        pa.types.is_floating(array.type) and pc.any(pc.invert(pc.is_finite(array.cast(pa.float64())))).as_py() is True
    )


def _is_beyond_python(array: pa.Array) -> bool:
    """Whether an array of dates, timestamps or durations has a value or a time zone that Python does not have."""
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        numbers, per_day = array.cast(pa.int64()), UNITS_PER_DAY[kind.unit]
    elif pa.types.is_date32(kind):
        numbers, per_day = array.cast(pa.int32()), 1
    elif pa.types.is_date64(kind):
        numbers, per_day = array.cast(pa.int64()), UNITS_PER_DAY["ms"]
    else:
        return False
    first, stop = (-MAX_DAYS, MAX_DAYS) if pa.types.is_duration(kind) else (FIRST_DAY, STOP_DAY)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        first, stop = first + 1, stop - 1  # local time is up to a day away from UTC
        if not _is_known_zone(kind.tz):
            return True
    limits = pc.min_max(numbers)
    low, high = limits["min"].as_py(), limits["max"].as_py()
    return low is not None and (low < first * per_day or high >= stop * per_day)


def _is_known_zone(zone: str) -> bool:
    try:
        pa.lib.string_to_tzinfo(zone)
    except (ValueError, KeyError):  # zoneinfo raises a KeyError for a name it does not find
        return False
    return True
