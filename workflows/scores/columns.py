"""The columns of a scorer: one type each in all parts of its folder, whatever values a part happens to hold.

The first part with a value in a column decides its type. `scores/<name>/_columns.json` has the types of the first part,
and `_column_<number>.json` the type of a column that had no value there. Both are created and never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from actors.errors import one_line, reason_line, shown
from workflows.output.read_ahead import read_ahead
from workflows.scores.parts import (
    COLUMNS_PREFIX,
    KEY_SCHEMA,
    ScoresError,
    read_scores,
    read_scores_schema,
    replace_scores,
    scored_parts,
)
from workflows.storage.store import Storage

TYPES = {str(kind): kind for kind in (pa.float64(), pa.float32(), pa.bool_(), pa.string(), pa.list_(pa.float32()))}
NUMBERS, UNDECIDED = "double", "null"
TYPES_FILE = f"{COLUMNS_PREFIX}s.json"


def to_table(storage: Storage, name: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pa.Table:
    """The columns of one part in the types of the scorer's folder. Numbers are float64; float32 if numpy's are.

    A column that has no value in any part so far counts as numbers; `settle_columns` corrects it when a part decides
    otherwise. Raises ScoresError for other values, and for columns that differ from those of the first part.
    """
    for column in columns:
        if not column or not column.isprintable() or column in KEY_SCHEMA.names:
            raise ScoresError(f"scorer {name}: a column of scores cannot have the name {shown(column)}")
    found = {column: _array(name, column, values) for column, values in columns.items()}
    types = _types_of_folder(storage, name, {column: str(array.type) for column, array in found.items()})
    return pa.table({column: _cast(name, column, array, types[column]) for column, array in found.items()})


def settle_columns(storage: Storage, name: str) -> None:
    """Give the columns that had no value in early parts the type that a later part decided. No score changes.

    For the run that holds the folder, when no actor writes to it any more.
    """
    types = {column: kind for column, kind in _decided_later(storage, name).items() if kind != NUMBERS}
    if not types:
        return
    for _ in read_ahead(scored_parts(storage, name), lambda part: _settle(storage, name, part, types)):
        pass


def _settle(storage: Storage, name: str, part: str, types: Mapping[str, str]) -> None:
    schema = read_scores_schema(storage, name, part)
    if all(schema.field(column).type == TYPES[kind] for column, kind in types.items()):
        return
    table = read_scores(storage, name, part)
    for column, kind in types.items():
        typed = _cast(name, column, table[column], kind)
        table = table.set_column(table.column_names.index(column), column, typed)
    replace_scores(storage, name, part, table)


def _types_of_folder(storage: Storage, name: str, guessed: Mapping[str, str]) -> dict[str, str]:
    """The type of each column. What is not decided yet is decided by `guessed`: the types of the part at hand."""
    for column, kind in guessed.items():
        if kind not in TYPES and kind != UNDECIDED:
            raise _wrong_type(name, column, kind, "")
    types: dict[str, str] = _first_wins(storage, name, TYPES_FILE, dict(guessed))
    if types.keys() != guessed.keys():
        raise ScoresError(
            f"scorer {name} gave the columns {one_line(', '.join(types))} for other images, and "
            f"{one_line(', '.join(guessed))} for these"
        )
    for number, (column, kind) in enumerate(types.items()):
        if kind == UNDECIDED and guessed[column] != UNDECIDED:
            types[column] = _first_wins(storage, name, _type_file(number), guessed[column])
    return types


def _decided_later(storage: Storage, name: str) -> dict[str, str]:
    """The columns without a value in the first part, with the types that later parts gave them."""
    files = storage.names(f"scores/{name}")
    if TYPES_FILE not in files:
        return {}
    columns = json.loads(storage.read(f"scores/{name}/{TYPES_FILE}"))
    return {
        column: json.loads(storage.read(f"scores/{name}/{_type_file(number)}"))
        for number, column in enumerate(columns)
        if _type_file(number) in files
    }


def _first_wins(storage: Storage, name: str, file: str, ours: Any) -> Any:
    """What the first caller wrote into a file of the folder."""
    path = f"scores/{name}/{file}"
    return ours if storage.create(path, json.dumps(ours).encode()) else json.loads(storage.read(path))


def _type_file(number: int) -> str:
    """The file with the type of the column of this number, if it had no value in the first part."""
    return f"{COLUMNS_PREFIX}_{number}.json"


def _array(name: str, column: str, values: Sequence[Any] | np.ndarray) -> pa.Array:
    try:
        array = pa.array([_plain(value) for value in values])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ScoresError(
            f"scorer {name}: column `{column}` must hold numbers, texts or lists of one type: {reason_line(error)}"
        ) from error
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


def _cast(name: str, column: str, array: pa.Array | pa.ChunkedArray, kind: str) -> pa.Array | pa.ChunkedArray:
    wanted, numbers = TYPES[NUMBERS if kind == UNDECIDED else kind], (pa.float64(), pa.float32())
    if array.null_count == len(array):
        return pa.nulls(len(array), wanted)
    if array.type == wanted or (array.type in numbers and wanted in numbers):
        return array.cast(wanted, safe=False)
    raise _wrong_type(name, column, str(array.type), f", the same in all parts; in the first part it is {kind}")


def _wrong_type(name: str, column: str, kind: str, rule: str) -> ScoresError:
    return ScoresError(
        f"scorer {name}: column `{column}` must hold numbers, text, booleans or vectors{rule}, got {shown(kind)}"
    )
