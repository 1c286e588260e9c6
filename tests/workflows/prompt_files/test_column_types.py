"""One type for two: which widening is lossless, which needs statistics, and what has no common type."""

from __future__ import annotations

import pyarrow as pa
import pytest

from workflows.prompt_files.column_types import Extent, TypeConflictError, common_type, is_lossless, plain_type

UTC, BERLIN, ODD = (pa.timestamp("us", zone) for zone in ("UTC", "Europe/Berlin", "US/Pacific-New"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.null(), pa.list_(pa.struct([("a", pa.int8())])), pa.list_(pa.struct([("a", pa.int8())]))),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.binary(), pa.large_binary(), pa.large_binary()),
        (pa.binary(2), pa.binary(3), pa.binary()),
        (pa.int8(), pa.uint8(), pa.int16()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int8(), pa.float16(), pa.float16()),
        (pa.float16(), pa.float64(), pa.float64()),
        (pa.decimal128(5, 2), pa.decimal128(6, 4), pa.decimal128(7, 4)),
        (pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal256(48, 10)),
        (pa.int64(), pa.decimal128(5, 2), pa.decimal128(21, 2)),
        (UTC, BERLIN, UTC),
        (BERLIN, ODD, UTC),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.large_list(pa.int64())),
        (pa.list_(pa.int32(), 2), pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 2)),
        (pa.list_(pa.int32(), 2), pa.list_(pa.int32(), 3), pa.list_(pa.int32())),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int16()), pa.map_(pa.string(), pa.int16())),
        (
            pa.struct([("a", pa.int8()), ("b", pa.string())]),
            pa.struct([("b", pa.null()), ("c", pa.bool_())]),
            pa.struct([("a", pa.int8()), ("b", pa.string()), ("c", pa.bool_())]),
        ),
        (pa.uuid(), pa.binary(16), pa.binary(16)),
        (pa.json_(), pa.large_string(), pa.large_string()),
    ],
)
def test_the_common_type_holds_both_without_loss_in_either_order(
    one: pa.DataType, other: pa.DataType, expected: pa.DataType
) -> None:
    assert common_type(one, other) == expected
    assert is_lossless(one, expected)
    assert is_lossless(other, expected)
    assert common_type(other, one).equals(expected) or pa.types.is_struct(expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.string(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("us"), UTC),
        (pa.date32(), pa.timestamp("us")),
        (pa.decimal128(5, 2), pa.float64()),
        (pa.decimal256(76, 0), pa.decimal256(76, 70)),
        (pa.list_(pa.string()), pa.string()),
        (pa.list_(pa.string()), pa.list_(pa.int8())),
        (pa.struct([("a", pa.string())]), pa.struct([("a", pa.int8())])),
        (pa.map_(pa.string(), pa.int8()), pa.list_(pa.int8())),
        (pa.duration("us"), pa.int64()),
        (pa.uuid(), pa.string()),
    ],
)
def test_types_of_different_kinds_have_no_common_type(one: pa.DataType, other: pa.DataType) -> None:
    with pytest.raises(TypeConflictError, match="no type holds"):
        common_type(one, other)
    with pytest.raises(TypeConflictError, match="no type holds"):
        common_type(other, one)


@pytest.mark.parametrize(
    ("kind", "target", "largest"),
    [
        (pa.int64(), pa.float64(), 2**53),
        (pa.uint64(), pa.float64(), 2**53),
        (pa.uint64(), pa.int64(), 2**63 - 1),
        (pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC"), (2**63 - 1) // 10**6),
        (pa.duration("s"), pa.duration("us"), (2**63 - 1) // 10**6),
    ],
)
def test_64_bit_values_are_widened_only_if_their_statistics_show_that_they_fit(
    kind: pa.DataType, target: pa.DataType, largest: int
) -> None:
    assert common_type(kind, target) == target
    assert is_lossless(kind, target, Extent(low=0, high=largest))
    assert not is_lossless(kind, target, Extent(low=0, high=largest + 1))
    assert not is_lossless(kind, target)
    assert not is_lossless(pa.list_(kind), pa.list_(target))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (pa.int64(), pa.int32()),
        (pa.float64(), pa.float32()),
        (pa.large_string(), pa.string()),
        (pa.timestamp("us"), pa.timestamp("ms")),
        (pa.struct([("a", pa.int8()), ("b", pa.int8())]), pa.struct([("a", pa.int8())])),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3)),
        (pa.string(), pa.null()),
    ],
)
def test_a_narrower_type_is_not_lossless(kind: pa.DataType, target: pa.DataType) -> None:
    assert not is_lossless(kind, target)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.string_view(), pa.large_string()),
        (pa.binary_view(), pa.large_binary()),
        (pa.list_view(pa.string_view()), pa.list_(pa.large_string())),
        (pa.large_list_view(pa.int8()), pa.large_list(pa.int8())),
        (pa.struct([("a", pa.dictionary(pa.int8(), pa.string_view()))]), pa.struct([("a", pa.large_string())])),
        (pa.map_(pa.string_view(), pa.binary_view()), pa.map_(pa.large_string(), pa.large_binary())),
        (pa.decimal32(5, 2), pa.decimal128(5, 2)),
        (pa.json_(pa.string_view()), pa.large_string()),
        (pa.uuid(), pa.uuid()),
    ],
)
def test_the_plain_type_has_no_views_and_dictionaries(kind: pa.DataType, expected: pa.DataType) -> None:
    assert plain_type(kind) == expected


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (pa.struct([]), "has no fields"),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), "has two fields of one name"),
        (pa.list_(pa.int8(), 0), "has lists of size 0"),
    ],
)
def test_a_type_that_parquet_does_not_give_back_is_refused(kind: pa.DataType, rule: str) -> None:
    with pytest.raises(TypeConflictError, match=rule):
        plain_type(pa.list_(kind))
