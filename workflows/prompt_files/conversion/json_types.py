"""The types of JSON values, found a column at a time, and the Arrow types that hold them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import types

from actors.errors import one_line

MAX_DEPTH = 30  # of lists and objects in a column; Parquet's readers take 100 levels, and a list has three
_EXACT_FLOAT = 2**53  # whole numbers up to it are exact as float64
ONE_TYPE = "a column has one type in all rows"
_NAMES = {str: "text", bool: "true and false", list: "lists", dict: "objects", int: "numbers", float: "numbers"}


class MixedTypesError(ValueError):
    """Values of one column that no type holds, or none that Parquet has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """The type of some values: `name` as in `_NAMES`, empty if all are null.

    `low` and `high` are the extent of the whole numbers, `is_float` says that there are others.
    """

    name: str = ""
    is_float: bool = False
    low: int = 0
    high: int = 0
    item: Kind | None = None
    fields: dict[str, Kind] = field(default_factory=dict)

    def arrow(self) -> pa.DataType:
        match self.name:
            case "text":
                return pa.string()
            case "true and false":
                return pa.bool_()
            case "numbers":
                return pa.float64() if self.is_float else pa.int64() if self.high < 2**63 else pa.uint64()
            case "lists":
                return pa.list_((self.item or EMPTY).arrow())
            case "objects" if self.fields:
                return pa.struct([(name, kind.arrow()) for name, kind in self.fields.items()])
        return pa.null()


EMPTY = Kind()


def kind_of(values: Sequence[Any], column: str = "", depth: int = 0) -> Kind:
    """The type of JSON values, which are `depth` lists and objects deep. Raises MixedTypesError."""
    if depth > MAX_DEPTH:
        raise MixedTypesError(f"column `{one_line(column)}` has more than {MAX_DEPTH} lists and objects in each other")
    found = set(map(type, values)) - {type(None)}
    names = {_NAMES[kind] for kind in found}
    if len(names) > 1:
        raise MixedTypesError(_mixed(column, *sorted(names)[:2]))
    if not names:
        return EMPTY
    (name,) = names
    present = [value for value in values if value is not None]
    if name == "numbers":
        whole = [value for value in present if type(value) is int] or [0]
        return _number(column, is_float=float in found, low=min(whole), high=max(whole))
    if name == "lists":
        return Kind(name=name, item=kind_of(list(itertools.chain.from_iterable(present)), f"{column}[]", depth + 1))
    if name == "objects":
        fields = {key: kind_of(found, f"{column}.{key}", depth + 1) for key, found in values_by_key(present).items()}
        return Kind(name=name, fields=fields)
    return Kind(name=name)


def values_by_key(objects: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The values of some JSON objects, key by key."""
    found: dict[str, list[Any]] = {}
    for value in objects:
        for key, item in value.items():
            found.setdefault(key, []).append(item)
    return found


def num_keys(kinds: Iterable[Kind]) -> int:
    """How many keys these types have, at any depth."""
    return sum(1 + num_keys([*kind.fields.values(), *([kind.item] if kind.item else [])]) for kind in kinds)


def merge(one: Kind, other: Kind, column: str) -> Kind:
    """The type of the values of both. Raises MixedTypesError."""
    if not one.name or not other.name:
        return other if not one.name else one
    if one.name != other.name:
        raise MixedTypesError(_mixed(column, one.name, other.name))
    if one.name == "numbers":
        low, high = min(one.low, other.low), max(one.high, other.high)
        return _number(column, is_float=one.is_float or other.is_float, low=low, high=high)
    if one.name == "lists":
        return Kind(name=one.name, item=merge(one.item or EMPTY, other.item or EMPTY, f"{column}[]"))
    fields = dict(one.fields)
    for key, kind in other.fields.items():
        fields[key] = merge(fields.get(key, EMPTY), kind, f"{column}.{key}")
    return Kind(name=one.name, fields=fields)


def typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as an array of the type of their column."""
    return pa.array([_without_empty(value, kind) for value in values] if _has_null(kind) else values, kind)


def _number(column: str, *, is_float: bool, low: int, high: int) -> Kind:
    if is_float and max(-low, high) > _EXACT_FLOAT:
        raise MixedTypesError(f"column `{one_line(column)}` has fractions and whole numbers above 2^53; {ONE_TYPE}")
    if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
        raise MixedTypesError(f"column `{one_line(column)}` has whole numbers of more than 64 bits; {ONE_TYPE}")
    return Kind(name="numbers", is_float=is_float, low=low, high=high)


def _mixed(column: str, one: str, other: str) -> str:
    return f"column `{one_line(column)}` has {one} and {other}; {ONE_TYPE}"


def _has_null(kind: pa.DataType) -> bool:
    """Whether values may have objects without any key, which no Arrow type holds."""
    if types.is_list(kind):
        return _has_null(kind.value_type)
    if types.is_struct(kind):
        return any(_has_null(child.type) for child in kind)
    return bool(types.is_null(kind))


def _without_empty(value: Any, kind: pa.DataType) -> Any:
    """The value with null for what has no type."""
    if value is None or types.is_null(kind):
        return None
    if types.is_list(kind):
        return [_without_empty(item, kind.value_type) for item in value]
    if types.is_struct(kind):
        return {child.name: _without_empty(value.get(child.name), child.type) for child in kind}
    return value
