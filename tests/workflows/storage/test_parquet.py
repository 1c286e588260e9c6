"""Parquet files are read without leaving Python's memory in Arrow's threads, which may outlive the interpreter."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.rooms import Project
from workflows.output.layouts import parquet_bytes
from workflows.storage.parquet import ForeignFileError, open_parquet, read_batches, read_footer, read_parquet

ROOT = Path(__file__).parents[3]
TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})

# Each of these hands Python's memory or a Python file to Arrow's threads, or may.
READERS = ("pa.BufferReader", "pa.PythonFile", "pa.py_buffer", "pq.ParquetDataset", "pq.ParquetFile", "pq.read_table")


def test_all_columns_or_those_named_are_read() -> None:
    data = parquet_bytes(TABLE)

    assert read_parquet(data).equals(TABLE)
    assert read_parquet(data, ["b"]).equals(TABLE.select(["b"]))


def test_a_row_group_of_an_open_file_is_read() -> None:
    file = io.BytesIO()
    pq.write_table(TABLE, file, row_group_size=2)

    footer = read_footer(file)
    assert pa.Table.from_batches(read_batches(file, footer, 1, 2**20)).equals(TABLE.slice(2))
    assert [batch.num_rows for batch in read_batches(file, footer, 0, 1)] == [1, 1]


def test_the_bytes_of_an_open_file_belong_to_arrow() -> None:
    before = pa.total_allocated_bytes()
    data = parquet_bytes(pa.table({"a": [b"x" * 2**20]}, pa.schema([("a", pa.binary())])))
    file = open_parquet(data)

    assert pa.total_allocated_bytes() - before >= len(data)
    assert file.metadata.num_rows == 1


@pytest.mark.parametrize("columns", [["a", "z"], ["z"]])
def test_a_missing_column_is_named(columns: list[str]) -> None:
    with pytest.raises(pa.ArrowInvalid, match="it has 0 columns `z`, expected one"):
        read_parquet(parquet_bytes(TABLE), columns)


@pytest.mark.parametrize("columns", [None, ["a"]])
def test_a_doubled_column_is_named(columns: list[str] | None) -> None:
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])

    with pytest.raises(pa.ArrowInvalid, match="it has 2 columns `a`, expected one"):
        read_parquet(parquet_bytes(doubled), columns)


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1PAR1", parquet_bytes(TABLE)[:-50], b"\x80\x04\x95\x00"])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(pa.ArrowInvalid):
        read_parquet(data)
    with pytest.raises(pa.ArrowInvalid):
        read_footer(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty (0 bytes)"),
        (b"a,b\n1,2\n", "CSV or other text"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"<html>404</html>", "an HTML or XML page, as web servers answer errors"),
        (b"PARE" + b"\0" * 90 + b"PARE", "encrypted; decrypt it first"),
    ],
)
def test_what_is_no_parquet_is_named_as_what_it_is(data: bytes, kind: str) -> None:
    with pytest.raises(ForeignFileError, match=f"^{re.escape(kind)}$"):
        read_parquet(data)
    with pytest.raises(ForeignFileError, match=f"^{re.escape(kind)}$"):
        read_footer(io.BytesIO(data))


def test_one_file_alone_opens_parquet_for_reading() -> None:
    sources = [s for s in Project(ROOT).rooms if s.path != Path("workflows/storage/parquet.py")]
    names = [(source.path, ast.unparse(node)) for source in sources for node in ast.walk(source.tree) if is_name(node)]
    datasets = [(s.path, i.module) for s in sources for i in s.imports if i.module.startswith("pyarrow.dataset")]

    assert [(path, name) for path, name in names if name in READERS] + datasets == []


def is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
