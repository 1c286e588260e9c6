"""The columns of an export: types that `datasets` reads, and refusals that name the column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.exports import export, finished, finished_apart, finished_with, load, metadata_of
from tests.support.toy_job import make_job, write_prompts
from workflows.export.columns import ColumnError, convert, exported_schema, needs_text

YEAR_10000 = 253402300800  # seconds since 1970
MICRO = 10**6


def array_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


@pytest.mark.parametrize(
    ("values", "is_beyond"),
    [
        (array_of([YEAR_10000 - 1], pa.timestamp("s")), False),
        (array_of([YEAR_10000], pa.timestamp("s")), True),
        (array_of([YEAR_10000 - 1], pa.timestamp("s", "Europe/Berlin")), True),
        (array_of([-62135596800], pa.timestamp("s")), False),
        (array_of([-62135596801], pa.timestamp("s")), True),
        (array_of([2**62], pa.timestamp("us", "UTC")), True),
        (array_of([0], pa.timestamp("us", "+05:30")), False),
        (array_of([0], pa.timestamp("us", "Mars/Phobos")), True),
        (array_of([2932896], pa.int32()).cast(pa.date32()), False),
        (array_of([2932897], pa.int32()).cast(pa.date32()), True),
        (array_of([YEAR_10000 * 1000], pa.int64()).cast(pa.date64()), True),
        (array_of([2**62], pa.duration("s")), True),
        (array_of([1], pa.duration("ns")), False),
        (array_of([None], pa.timestamp("s")), False),
        (array_of([[], [YEAR_10000], None], pa.list_(pa.timestamp("s"))), True),
        (array_of([{"a": {"b": YEAR_10000}}], pa.struct([("a", pa.struct([("b", pa.timestamp("s"))]))])), True),
        (array_of([[("k", YEAR_10000)]], pa.map_(pa.string(), pa.timestamp("s"))), True),
        (array_of([2**62], pa.int64()), False),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_times_beyond_the_range_of_python_are_found(values: pa.Array, is_beyond: bool) -> None:
    assert needs_text(pa.table({"x": values}), is_json=False) == ({"x"} if is_beyond else set())


def test_one_date_beyond_python_turns_its_column_to_text_in_every_file(tmp_path: Path) -> None:
    for name, seconds in (("a", 0), ("b", YEAR_10000)):
        until = pa.array([seconds * MICRO], pa.timestamp("us", "Europe/Berlin"))
        write_prompts(tmp_path / f"prompts/{name}.parquet", {"prompt": [name], "until": until})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "ds", "imagefolder")

    texts = {"a": "1970-01-01 00:00:00.000000Z", "b": "10000-01-01 00:00:00.000000Z"}
    assert {row["prompt"]: row["until"] for row in load("imagefolder", tmp_path / "ds")} == texts


def test_one_nan_turns_its_column_to_text_in_every_tar_but_not_in_parquet(tmp_path: Path) -> None:
    for name, value in (("a", 1.5), ("b", float("nan"))):
        write_prompts(tmp_path / f"prompts/{name}.parquet", {"prompt": [name], "x": [value]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "tars", "webdataset")
    export(job, tmp_path / "ds", "imagefolder")

    rows = [row["json"] for row in load("webdataset", tmp_path / "tars")]
    assert {row["prompt"]: row["x"] for row in rows} == {"a": "1.5", "b": "nan"}
    assert metadata_of(tmp_path / "ds").schema.field("x").type == pa.float64()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (array_of([[2**64 - 1]], pa.list_(pa.uint64())), [str(2**64 - 1)]),
        (array_of([{"a": 2**64 - 1}], pa.struct([("a", pa.uint64())])), {"a": str(2**64 - 1)}),
        (array_of([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [{"key": "k", "value": 1}]),
        (array_of([["x"]], pa.large_list(pa.string())), ["x"]),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (array_of([b"0" * 16], pa.uuid()), b"0" * 16),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_datasets_reads_nested_and_rare_types(tmp_path: Path, values: pa.Array, expected: Any) -> None:
    job = finished_with(tmp_path, {"value": values})

    export(job, tmp_path / "ds", "imagefolder")

    assert [row["value"] for row in load("imagefolder", tmp_path / "ds")] == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (array_of([["x"], [], None], pa.list_(pa.string_view())), [["x"], [], None]),
        (array_of([{"a": "x"}], pa.struct([("a", pa.string_view())])), [{"a": "x"}]),
        (array_of([b"x", None], pa.binary_view()), [b"x", None]),
        (array_of([[1], None, [2, 3], []], pa.list_view(pa.uint64())), [["1"], None, ["2", "3"], []]),
        (array_of([[1], [2, 3]], pa.list_view(pa.int64())).slice(1), [[2, 3]]),
        (array_of([[1], None], pa.large_list_view(pa.int8())), [[1], None]),
        (array_of([[1, 2], None], pa.list_(pa.uint64(), 2)), [["1", "2"], None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_views_become_plain_types(values: pa.Array, expected: list[Any]) -> None:
    table = pa.table({"x": values})
    schema = exported_schema(table.schema, set(), is_json=False)

    assert "view" not in str(schema)
    assert convert(table, schema)["x"].to_pylist() == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1]), pa.array(["one"])),
        (pa.array([True]), pa.array([1])),
        (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC"))),
        (pa.array([[1]]), pa.array([1])),
    ],
)
def test_types_that_do_not_fit_are_refused_by_name(tmp_path: Path, first: pa.Array, second: pa.Array) -> None:
    job = finished_apart(tmp_path, first, second)

    with pytest.raises(ColumnError, match=r"/out: prompt files disagree on the type of a column.* x "):
        export(job, tmp_path / "ds", "imagefolder")
    assert not (tmp_path / "ds").exists()


def test_whole_numbers_that_a_float_column_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    job = finished_apart(tmp_path, pa.array([2**53 + 1]), pa.array([0.5]))

    with pytest.raises(ColumnError, match=r"column `x` \(int64\) cannot be exported as double"):
        export(job, tmp_path / "ds", "imagefolder")


def test_types_that_fit_become_the_wider_one(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": ["a"], "x": [1], "y": pa.nulls(1)})
    write_prompts(
        tmp_path / "prompts/b.parquet", {"prompt": ["b"], "x": [0.5], "y": pa.array(["t"]).dictionary_encode()}
    )
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "ds", "imagefolder")

    table = metadata_of(tmp_path / "ds")
    assert (table["x"].to_pylist(), table["y"].to_pylist()) == ([1.0, 0.5], [None, "t"])
