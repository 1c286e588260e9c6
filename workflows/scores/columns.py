"""The columns of a scorer: one type each in all parts of its folder, whatever values a part happens to hold.

The first part that is committed decides the types, in `scores/<name>/_columns.json`, which is created and never
overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from actors.errors import one_line, reason_line, shown
from workflows.scores.parts import COLUMNS_FILE, KEY_SCHEMA, ScoresError
from workflows.storage.store import Storage

TYPES = {str(kind): kind for kind in (pa.float64(), pa.float32(), pa.bool_(), pa.string(), pa.list_(pa.float32()))}


def to_table(storage: Storage, name: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pa.Table:
    """The columns of one part in the types of the scorer's folder. Numbers are float64; float32 if numpy's are.

    A column without any value in the first part counts as numbers. Raises ScoresError for other values, and for
    columns that differ from those of the first part.
    """
    for column in columns:
        if not column or column in KEY_SCHEMA.names:
            raise ScoresError(f"scorer {name}: a column of scores cannot have the name {shown(column)}")
    found = {column: _array(name, column, values) for column, values in columns.items()}
    guessed = {column: str(array.type) if array.type in TYPES.values() else "double" for column, array in found.items()}
    file = f"scores/{name}/{COLUMNS_FILE}"
    types = guessed if storage.create(file, json.dumps(guessed).encode()) else json.loads(storage.read(file))
    if types.keys() != found.keys():
        raise ScoresError(
            f"scorer {name} gave the columns {one_line(', '.join(types))} for other images, and "
            f"{one_line(', '.join(found))} for these"
        )
    return pa.table({column: _cast(name, column, array, types[column]) for column, array in found.items()})


def _array(name: str, column: str, values: Sequence[Any] | np.ndarray) -> pa.Array:
    try:
        array = pa.array([_plain(value) for value in values])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ScoresError(f"scorer {name}: column `{column}` mixes types: {reason_line(error)}") from error
    if pa.types.is_integer(array.type):
        return array.cast(pa.float64(), safe=False)  # the nearest number of an integer beyond 2^53
    if pa.types.is_list(array.type) and _is_number(array.type.value_type):
        return array.cast(pa.list_(pa.float32()), safe=False)
    is_float32 = isinstance(values, np.ndarray) and values.dtype == np.float32
    return array.cast(pa.float32()) if is_float32 and array.type == pa.float64() else array


def _is_number(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_null))


def _plain(value: Any) -> Any:
    """A number, text or list as Python has it; NaN is no score."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).tolist()
    return None if isinstance(value, float) and value != value else value


def _cast(name: str, column: str, array: pa.Array, kind: str) -> pa.Array:
    wanted, numbers = TYPES[kind], (pa.float64(), pa.float32())
    if array.type in (wanted, pa.null()) or (array.type in numbers and wanted in numbers):
        return array.cast(wanted, safe=False)
    raise ScoresError(
        f"scorer {name}: column `{column}` must hold numbers, text, booleans or vectors, the same in all parts; in "
        f"the first part it is {kind}, got {shown(str(array.type))}"
    )
