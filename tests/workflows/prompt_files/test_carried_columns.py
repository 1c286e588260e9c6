"""Carried columns: one type in all files, values that stay as they are, and refusals before anything is rendered."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from tests.support.toy_job import make_job, plan_job, render, write_prompts
from workflows.output.remaining import find_job_prompts
from workflows.output.remaining import plan_job as plan_of_job
from workflows.prompts import PromptsError, find_prompt_files, read_rows

LIST_OF_U64 = pa.list_(pa.uint64())


def carried(folder: Path, *columns: Any) -> pa.ChunkedArray:
    """Render files that have these values of the column `x`, and read the manifest as the README does."""
    for number, values in enumerate(columns):
        write_prompts(folder / f"p/{number}.parquet", {"prompt": ["a"] * len(values), "x": values})
    render(make_job(folder / "p", folder / "out"))
    return ds.dataset(folder / "out/manifest").to_table()["x"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.nulls(2), pa.array(["x"]), pa.string()),
        (pa.array(["x"]), pa.nulls(2), pa.string()),
        (pa.array([1]), pa.array([0.5]), pa.float64()),
        (pa.array(["x"]).dictionary_encode(), pa.array(["y"]), pa.string()),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
        (pa.array([Decimal("1.5")]), pa.array([Decimal("22.25")]), pa.decimal128(4, 2)),
        (
            pa.array([1], pa.timestamp("us", "UTC")),
            pa.array([1], pa.timestamp("us", "+05:30")),
            pa.timestamp("us", "UTC"),
        ),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["x"]]), pa.list_(pa.string())),
        (pa.array([{"a": 1}]), pa.array([{"b": "x"}]), pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
)
def test_all_parts_have_one_type_that_holds_the_values_of_every_file(
    tmp_path: Path, one: pa.Array, other: pa.Array, expected: pa.DataType
) -> None:
    found = carried(tmp_path, one, other)

    assert found.type == expected
    together = pa.chunked_array([one.cast(expected) if one.type != expected else one, other.cast(expected)])
    assert found.to_pylist() == together.to_pylist()


def test_a_column_that_some_files_lack_is_null_there(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p/1.parquet", {"prompt": ["a"], "y": [1]})
    write_prompts(tmp_path / "p/2.parquet", {"prompt": ["b"], "x": ["z"]})
    render(make_job(tmp_path / "p", tmp_path / "out"))

    table = ds.dataset(tmp_path / "out/manifest").to_table(["x", "y"])

    assert table.to_pylist() == [{"x": None, "y": 1}, {"x": "z", "y": None}]


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (
            pa.array(["x"]),
            pa.array([1]),
            r"holds string in .*0.parquet and int64 in .*1.parquet",
        ),
        (pa.array([1]), pa.array([0.5, 2.0**53]), None),
        (pa.array([2**53 + 1]), pa.array([0.5]), r"holds int64 in .*0.parquet and double in .*1.parquet"),
        (
            pa.array([1], pa.timestamp("us")),
            pa.array([1], pa.timestamp("us", "UTC")),
            r"holds timestamp\[us\] in .*0.parquet and timestamp\[us, tz=UTC\] in .*1.parquet, and no type holds both",
        ),
        (pa.array([["x"]]), pa.array([[1]]), r"holds list<item: string> in .*0.parquet and list<item: int64> in"),
        (
            pa.array([253402300799000000], pa.timestamp("us")),
            pa.array([1], pa.timestamp("ns")),
            r"holds timestamp\[us\] in .*0.parquet and timestamp\[ns\] in .*1.parquet",
        ),
    ],
)
def test_values_without_a_common_type_are_refused_with_both_files_and_types(
    tmp_path: Path, one: pa.Array, other: pa.Array, told: str | None
) -> None:
    for number, values in enumerate((one, other)):
        write_prompts(tmp_path / f"{number}.parquet", {"prompt": ["a"] * len(values), "x": values})

    if told is None:
        assert len(find_prompt_files(str(tmp_path), {})) == 2
    else:
        with pytest.raises(PromptsError, match=rf"column `x` {told}"):
            find_prompt_files(str(tmp_path), {})


def test_a_file_that_is_added_keeps_the_types_of_the_output(tmp_path: Path) -> None:
    assert carried(tmp_path, pa.array([0.5])).type == pa.float64()

    assert carried(tmp_path, pa.array([0.5]), pa.array([7], pa.int32())).to_pylist() == [0.5, 7.0]


def test_a_column_without_values_is_text_so_that_text_can_be_added(tmp_path: Path) -> None:
    assert carried(tmp_path, pa.nulls(1)).type == pa.string()

    assert carried_again(tmp_path, pa.array(["x"])).to_pylist() == [None, "x"]


def carried_again(folder: Path, values: pa.Array) -> pa.ChunkedArray:
    """Add a file of these values, and render with the types of the output."""
    write_prompts(folder / "p/added.parquet", {"prompt": ["a"] * len(values), "x": values})
    job = make_job(folder / "p", folder / "out")
    plan = plan_of_job(job, find_job_prompts(job))
    tables = [read_rows(shard.file, shard.start, shard.stop, {}) for shard in plan.remaining_shards()]
    return pa.chunked_array([*ds.dataset(folder / "out/manifest").to_table()["x"].chunks, *tables[0]["x"].chunks])


def test_an_added_file_whose_values_the_output_cannot_hold_is_refused(tmp_path: Path) -> None:
    carried(tmp_path, pa.array([1], pa.int32()))

    with pytest.raises(PromptsError, match=r"column `x` holds int64, and the images in .*out carry it as int32"):
        carried_again(tmp_path, pa.array([2**40]))


def test_a_column_that_is_younger_than_the_output_has_the_type_of_its_first_values(tmp_path: Path) -> None:
    job = make_job(tmp_path / "p", tmp_path / "out")
    write_prompts(tmp_path / "p/a.parquet", {"prompt": ["a"]})
    render(job)
    write_prompts(tmp_path / "p/b.parquet", {"prompt": ["b"], "x": pa.array([1], pa.int32())})
    render(job)
    (tmp_path / "p/b.parquet").unlink()

    with pytest.raises(PromptsError, match=r"column `x` holds int64, and the images in .*out carry it as int32"):
        carried_again(tmp_path, pa.array([2**40]))


TENSOR = pa.fixed_shape_tensor(pa.float32(), [2])
TURNED = pa.fixed_shape_tensor(pa.float32(), [2, 1], permutation=[1, 0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([["x"], [], None], pa.large_list(pa.string_view())), pa.large_list(pa.large_string())),
        (pa.array([{"s": "k"}, None, {"s": None}], pa.struct([("s", pa.string_view())])), None),
        (pa.array([b"\0", b"", None], pa.binary_view()), pa.large_binary()),
        (pa.array([["x", "y"], None, []], pa.list_view(pa.string())), pa.list_(pa.string())),
        (pa.array([[1], None, []], pa.large_list_view(pa.int64())), pa.large_list(pa.int64())),
        (pa.array([[{"a": ["x"]}], None, []], pa.list_view(pa.struct([("a", pa.list_view(pa.string_view()))]))), None),
        (pa.array([uuid.UUID(int=7).bytes, None], pa.uuid()), pa.uuid()),
        (pa.array(["{}", None], pa.json_()), pa.json_()),
        (pa.ExtensionArray.from_storage(TENSOR, pa.array([[1, 2], None], pa.list_(pa.float32(), 2))), TENSOR),
        (pa.ExtensionArray.from_storage(TURNED, pa.array([[1, 2], None], pa.list_(pa.float32(), 2))), TURNED),
        (pa.array([[("a", 1)], [], None, [("b", None)]], pa.map_(pa.string(), pa.int64())), None),
        (pa.array([[2**64 - 1], [], None], LIST_OF_U64), LIST_OF_U64),
        (pa.array([{"n": 2**64 - 1}, None], pa.struct([("n", pa.uint64())])), None),
        (pa.array([None, Decimal("1.50")], pa.decimal256(60, 2)), pa.decimal256(60, 2)),
        (pa.array([0.5, None], pa.float16()), pa.float16()),
        (pa.array([[0.5], None], pa.list_(pa.float16())), pa.list_(pa.float16())),
        (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)), pa.list_(pa.int32(), 2)),
        (pa.array([["a", None], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))), pa.list_(pa.string())),
        (pa.array([1, None], pa.duration("s")), pa.duration("s")),
    ],
)
def test_values_of_every_type_are_carried_as_they_are(tmp_path: Path, values: pa.Array, expected: Any) -> None:
    found = carried(tmp_path, values)

    assert expected is None or found.type == expected
    assert found.to_pylist() == values.to_pylist()


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+05:30", "US/Pacific-New", "No/Where"])
def test_moments_beyond_pythons_years_and_of_any_zone_are_carried(tmp_path: Path, zone: str | None) -> None:
    moments = pa.array([253402300799000000, -(10**17), 9 * 10**18, None], pa.int64())

    found = carried(tmp_path, moments.cast(pa.timestamp("us", zone)))

    assert found.type == pa.timestamp("us", zone)
    assert found.cast(pa.int64()).to_pylist() == moments.to_pylist()


def test_dates_beyond_pythons_years_are_carried(tmp_path: Path) -> None:
    days = pa.array([10**7, -(10**7)], pa.int32())

    assert carried(tmp_path, days.cast(pa.date32())).cast(pa.int32()).to_pylist() == days.to_pylist()


def test_nested_text_that_is_not_utf8_stays_readable(tmp_path: Path) -> None:
    text = pa.array([b"ok", b"caf\xe9", "é".encode()], pa.binary()).view(pa.string())
    in_list = pa.ListArray.from_arrays(pa.array([0, 2, 3]), text)
    in_struct = pa.StructArray.from_arrays([in_list, pa.array([1, 2])], ["l", "n"])

    found = carried(tmp_path, in_struct)

    assert found.to_pylist() == [{"l": ["ok", "caf\ufffd"], "n": 1}, {"l": ["é"], "n": 2}]


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "line\nbreak", "image_id ", "ünï 🦊", "x" * 3000])
def test_columns_of_any_name_are_carried(tmp_path: Path, name: str) -> None:
    write_prompts(tmp_path / "p.parquet", {"prompt": ["a"], name: [{"a.b": [1]}], "a": [{"b": 2}]})
    render(make_job(tmp_path / "p.parquet", tmp_path / "out"))

    row = ds.dataset(tmp_path / "out/manifest").to_table().to_pylist()[0]

    assert (row[name], row["a"]) == ({"a.b": [1]}, {"b": 2})


def test_names_of_the_manifest_get_a_prefix_and_nothing_is_lost(tmp_path: Path) -> None:
    columns = {"prompt": ["a"], "source_image_id": [1], "image_id": [2], "source_seed": [3], "model": [4]}
    write_prompts(tmp_path / "p.parquet", columns)
    render(make_job(tmp_path / "p.parquet", tmp_path / "out"))

    row = ds.dataset(tmp_path / "out/manifest").to_table().to_pylist()[0]

    names = ("source_image_id", "source_source_image_id", "source_seed", "source_model")
    assert [row[name] for name in names] == [1, 2, 3, 4]


def test_rows_of_hundreds_of_megabytes_are_read_without_their_row_group(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary())])
    one = pa.array([{"bytes": b"y" * (20 * 2**20)}], kind)
    path = write_prompts(tmp_path / "p.parquet", {"prompt": ["a"] * 12, "x": pa.chunked_array([one] * 12)})
    (file,) = find_prompt_files(path, {})
    before = pa.total_allocated_bytes()

    rows = read_rows(file, 5, 7, {})

    assert rows["x"].nbytes > 40 * 2**20
    assert pa.total_allocated_bytes() - before < 200 * 2**20  # all twelve rows have 240 MiB


def test_a_shard_that_would_carry_gigabytes_is_refused_with_what_helps(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "p.parquet", {"prompt": ["a"] * 200, "x": [b"y" * 2**20] * 200})
    few, many = (make_job(path, tmp_path / f"out{rows}", shard_rows=rows) for rows in (4, 256))
    dense = find_job_prompts(few)[0]
    assert dense.row_bytes < 2**20  # equal values are stored once

    assert plan_job(many).num_shards_remaining == 1
    heavy = [type(dense)(**{name: getattr(dense, name) for name in dense.__slots__} | {"row_bytes": 2**25})]
    assert plan_of_job(few, heavy).num_shards_remaining == 50
    with pytest.raises(
        PromptsError, match=r"200 rows of .*p.parquet would carry 6,710,886,400 bytes .* lower shard_rows"
    ):
        plan_of_job(many, heavy)
