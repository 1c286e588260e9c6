"""Brings Arrow arrays to the plain type of their column, without a Python object for each value."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from workflows.prompt_files.column_types import is_list, is_text


def conform(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values of an array as `kind`, a type that holds them without loss.

    Text that is not UTF-8 gets replacement characters: one such value would make a whole manifest part unreadable.
    """
    if types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, conform(_storage(array), kind.storage_type))
    array = _storage(array)
    if types.is_dictionary(array.type):
        return conform(array.dictionary_decode(), kind)
    if types.is_map(kind):
        return _conform_map(array, kind)
    if is_list(kind):
        return _conform_list(array, kind)
    if types.is_struct(kind):
        return _conform_struct(array, kind)
    return (valid_text(array) if is_text(array.type) else array).cast(kind)


def valid_text(array: pa.Array) -> pa.Array:
    """Text with invalid UTF-8 replaced."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raw = array.cast(pa.large_binary()).to_pylist()
        return pa.array(
            [None if value is None else value.decode("utf-8", "replace") for value in raw], pa.large_string()
        )
    return array


def without_view(array: pa.Array) -> pa.Array:
    """Text without views, which Arrow cannot `take`; the bytes are not checked."""
    if types.is_string_view(array.type):
        return array.cast(pa.large_binary()).view(pa.large_string())
    return array


def _conform_list(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Any of Arrow's types of lists as `kind`. Casts of list views give broken arrays in Arrow 26."""
    is_null = array.is_null()
    if types.is_fixed_size_list(kind):
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(conform(values, kind.value_type), type=kind, mask=is_null)
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    values = conform(array.flatten(), kind.value_type)
    if types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(offsets, values, type=kind, mask=is_null)
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), values, type=kind, mask=is_null)


def _conform_map(array: pa.MapArray, kind: pa.MapType) -> pa.Array:
    start, stop = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    return pa.MapArray.from_arrays(
        pc.subtract(array.offsets, array.offsets[0]),
        conform(array.keys.slice(start, stop - start), kind.key_type),
        conform(array.items.slice(start, stop - start), kind.item_type),
        type=kind,
        mask=array.is_null(),
    )


def _conform_struct(array: pa.StructArray, kind: pa.StructType) -> pa.Array:
    """A field that the array lacks is null."""
    children = []
    for field in kind:
        index = array.type.get_field_index(field.name)
        child = pa.nulls(len(array)) if index < 0 else array.field(index)
        children.append(conform(child, field.type))
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array
