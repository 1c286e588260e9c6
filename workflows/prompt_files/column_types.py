"""One type for a column that has several: the plain form of a type, and the smallest one that holds two of them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # per second

# The whole numbers that a type of number holds exactly. A type is widened to the first one below that holds it.
EXACT_RANGES = {
    pa.int8(): (-(2**7), 2**7 - 1),
    pa.uint8(): (0, 2**8 - 1),
    pa.int16(): (-(2**15), 2**15 - 1),
    pa.uint16(): (0, 2**16 - 1),
    pa.int32(): (-(2**31), 2**31 - 1),
    pa.uint32(): (0, 2**32 - 1),
    pa.int64(): (-(2**63), 2**63 - 1),
    pa.uint64(): (0, 2**64 - 1),
    pa.float16(): (-(2**11), 2**11),
    pa.float32(): (-(2**24), 2**24),
    pa.float64(): (-(2**53), 2**53),
}


class TypeConflictError(ValueError):
    """Types that no type holds without loss, or a type that a manifest cannot have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """The smallest and the largest value of a column of 64-bit integers (or times), from its statistics."""

    low: int
    high: int

    def scaled(self, factor: int) -> Extent:
        return Extent(low=self.low * factor, high=self.high * factor)

    def lies_in(self, kind: pa.DataType) -> bool:
        low, high = EXACT_RANGES[kind]
        return low <= self.low and self.high <= high


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same values without views, dictionaries and other ways to save memory."""
    if isinstance(kind, pa.BaseExtensionType):
        storage = plain_type(kind.storage_type)
        return kind if storage == kind.storage_type else storage
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_fixed_size_list(kind) and not kind.list_size:
        raise TypeConflictError(f"{kind} has lists of size 0, which Parquet does not give back")
    if is_list(kind):
        return _list_like(kind, plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in _fields_of(kind).values()])
    return kind


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The smallest plain type that may hold the values of both plain types. Raises TypeConflictError.

    Whether it holds all of them is for `is_lossless` to say.
    """
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if isinstance(one, pa.BaseExtensionType) or isinstance(other, pa.BaseExtensionType):
        return common_type(_storage_type(one), _storage_type(other))
    for is_of_kind, merge in _MERGES:
        if is_of_kind(one) and is_of_kind(other):
            return merge(one, other)
    raise TypeConflictError(f"no type holds {one} and {other} without loss")


def is_lossless(kind: pa.DataType, target: pa.DataType, extent: Extent | None = None) -> bool:
    """Whether `target`, a common type of `kind`, holds every value; `extent` narrows the values of 64-bit integers."""
    if kind == target or types.is_null(kind):
        return True
    if types.is_null(target):
        return False
    if isinstance(kind, pa.BaseExtensionType) or isinstance(target, pa.BaseExtensionType):
        return is_lossless(_storage_type(kind), _storage_type(target), extent)
    if is_list(kind) and is_list(target):
        fits = not types.is_fixed_size_list(target) or _size_of(kind) == target.list_size
        return bool(fits and is_lossless(kind.value_type, target.value_type))
    if types.is_map(kind) and types.is_map(target):
        return is_lossless(kind.key_type, target.key_type) and is_lossless(kind.item_type, target.item_type)
    if types.is_struct(kind) and types.is_struct(target):
        found, wanted = _fields_of(kind), _fields_of(target)
        return wanted.keys() >= found.keys() and all(is_lossless(found[n].type, wanted[n].type) for n in found)
    if kind in EXACT_RANGES and target in EXACT_RANGES:
        return _number_fits(kind, target, extent)
    if _is_time(kind) and _is_time(target):
        return _time_fits(kind, target, extent)
    try:
        return bool(common_type(kind, target) == target)
    except TypeConflictError:
        return False


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is any of Arrow's types of lists; maps are not."""
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


# ---- how two types of one kind become one ----------------------------------------------------------------------------


def _merge_text(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return pa.large_string()


def _merge_binary(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return pa.large_binary() if pa.large_binary() in (one, other) else pa.binary()


def _merge_lists(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    value = common_type(one.value_type, other.value_type)
    if _size_of(one) is not None and _size_of(one) == _size_of(other):
        return _list_like(one, value)
    is_large = types.is_large_list(one) or types.is_large_list(other)
    return pa.large_list(value) if is_large else pa.list_(value)


def _merge_maps(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return pa.map_(common_type(one.key_type, other.key_type), common_type(one.item_type, other.item_type))


def _merge_structs(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    merged = {name: field.type for name, field in _fields_of(one).items()}
    for name, field in _fields_of(other).items():
        merged[name] = common_type(merged.get(name, pa.null()), field.type)
    return pa.struct(list(merged.items()))


def _merge_numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    for kind in EXACT_RANGES:
        if _number_fits(one, kind) and _number_fits(other, kind):
            return kind
    # 64-bit integers: their statistics may show that they fit.
    return pa.float64() if types.is_floating(one) or types.is_floating(other) else pa.int64()


def _merge_decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    (digits, scale), (other_digits, other_scale) = _digits_of(one), _digits_of(other)
    scale = max(scale, other_scale)
    precision = max(digits, other_digits) + scale
    if precision > 76:
        raise TypeConflictError(f"no type holds {one} and {other} without loss")
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _merge_times(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    unit = max(one.unit, other.unit, key=lambda unit: UNITS[unit])
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(unit)
    if types.is_time(one) and types.is_time(other):
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    # A time without a zone is no moment, so it has no common type with one that has a zone.
    if types.is_timestamp(one) and types.is_timestamp(other) and (one.tz is None) == (other.tz is None):
        return pa.timestamp(unit, one.tz if one.tz == other.tz else "UTC")
    raise TypeConflictError(f"no type holds {one} and {other} without loss")


def _number_fits(kind: pa.DataType, target: pa.DataType, extent: Extent | None = None) -> bool:
    if types.is_floating(kind) and not types.is_floating(target):
        return False
    low, high = EXACT_RANGES[kind]
    return (extent if extent and types.is_integer(kind) else Extent(low=low, high=high)).lies_in(target)


def _time_fits(kind: pa.DataType, target: pa.DataType, extent: Extent | None) -> bool:
    try:
        _merge_times(kind, target)
    except TypeConflictError:
        return False
    factor = UNITS[target.unit] // UNITS[kind.unit]  # 0 for a coarser unit
    if factor <= 1 or types.is_time(kind):
        return factor > 0
    return extent is not None and extent.scaled(factor).lies_in(pa.int64())


def _is_time(kind: pa.DataType) -> bool:
    return bool(types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return kind in EXACT_RANGES


def _is_exact(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_decimal(kind))


_MERGES = (
    (is_text, _merge_text),
    (_is_binary, _merge_binary),
    (is_list, _merge_lists),
    (types.is_map, _merge_maps),
    (types.is_struct, _merge_structs),
    (_is_number, _merge_numbers),
    (_is_exact, _merge_decimals),
    (_is_time, _merge_times),
)


def _list_like(kind: pa.DataType, value: pa.DataType) -> pa.DataType:
    if types.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    return pa.large_list(value) if types.is_large_list(kind) or types.is_large_list_view(kind) else pa.list_(value)


def _size_of(kind: pa.DataType) -> int | None:
    return kind.list_size if types.is_fixed_size_list(kind) else None


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _digits_of(kind: pa.DataType) -> tuple[int, int]:
    """The digits before and after the point."""
    if types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return len(str(EXACT_RANGES[kind][1])), 0


def _fields_of(kind: pa.StructType) -> dict[str, pa.Field]:
    """The fields of a struct by name. Raises TypeConflictError if it has none, or two of one name."""
    fields = {field.name: field for field in kind}
    if not fields or len(fields) < kind.num_fields:
        raise TypeConflictError(f"{kind} has {'two fields of one name' if fields else 'no fields'}")
    return fields
