"""Small files that would take long to read, or much memory, are refused; files that compress well are not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc

from tests.workflows.prompt_files.conversion.test_csv_rows import COMPRESS
from workflows.prompt_files.columns import MAX_COLUMNS
from workflows.prompt_files.conversion import lines
from workflows.prompt_files.conversion.json_rows import MAX_KEYS
from workflows.prompt_files.conversion.json_types import MAX_DEPTH
from workflows.prompts import PromptFile, PromptsError, find_prompt_files

NUM_LINES = 400_000


def found(path: Path) -> PromptFile:
    (file,) = find_prompt_files(str(path), {})
    return file


@pytest.fixture(autouse=True)
def few_lines_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FREE_BYTES", 1000 * lines.LINE_BYTES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n" * NUM_LINES),
        ("a.txt", "a\n" * NUM_LINES),
        ("a.txt", ("a" * 99_999 + "\n") * 1000),
        ("a.csv", "prompt\n" + " \r\n" * NUM_LINES),
        ("a.csv", "prompt\n" + '""\n' * NUM_LINES),
        ("a.csv", 'prompt\n"' + "\n" * NUM_LINES),
        ("a.jsonl", "\n" * NUM_LINES),
        ("a.jsonl", "{}\n" * NUM_LINES),
    ],
)
@pytest.mark.parametrize("ending", ["xz", "bz2", "zst"])  # gzip writes a byte for at most 1,032
def test_far_more_text_than_compressed_bytes_is_refused(tmp_path: Path, name: str, text: str, ending: str) -> None:
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(COMPRESS[ending](text.encode()))

    with pytest.raises(PromptsError, match=rf"bytes of .*{name}.{ending} decompress to [\d,]+ lines of [\d,]+ bytes"):
        found(path)


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2", "zst"])
def test_text_that_is_compressed_well_is_read(tmp_path: Path, ending: str) -> None:
    """Generated prompts that differ in a number, each with the same long text."""
    rows = [{"prompt": f"a red fox number {number}", "negative_prompt": "blurry " * 40} for number in range(20_000)]
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(COMPRESS[ending]("".join(json.dumps(row) + "\n" for row in rows).encode()))

    assert found(path).num_rows == 20_000


def test_plain_text_may_repeat_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red fox\n" * 20_000 + "\n" * 20_000)

    assert (found(tmp_path / "a.txt").num_rows, found(tmp_path / "a.txt").num_skipped) == (20_000, 20_000)


def write_arrow(path: Path, batches: list[pa.RecordBatch], compression: str | None = None) -> Path:
    options = ipc.IpcWriteOptions(compression=compression)
    with ipc.new_file(path, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def test_far_more_rows_than_an_arrow_file_has_bytes_are_refused(tmp_path: Path) -> None:
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * NUM_LINES, pa.int8()), pa.array(["a"]))
    batch = pa.record_batch({"prompt": prompts})

    with pytest.raises(PromptsError, match=r"bytes of .*a.arrow decompress to 400,000 rows and more"):
        found(write_arrow(tmp_path / "a.arrow", [batch], "zstd"))
    assert found(write_arrow(tmp_path / "b.arrow", [batch])).num_rows == NUM_LINES


def test_many_small_batches_of_an_arrow_file_become_few_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([("prompt", pa.string()), ("tags", pa.list_(pa.string()))])
    rows = [{"prompt": f"a {number}", "tags": ["x"] * (number % 3)} for number in range(3000)]
    batches = [pa.RecordBatch.from_pylist([row], schema) for row in rows]
    file = found(write_arrow(tmp_path / "a.arrow", batches))

    converted = pa.parquet.ParquetFile(file.converted)
    assert (converted.metadata.num_row_groups, converted.metadata.num_rows) == (1, 3000)
    assert converted.read().to_pylist() == rows


@pytest.mark.parametrize("name", ["a.csv", "a.arrow", "a.parquet"])
def test_too_many_columns_are_refused(tmp_path: Path, name: str) -> None:
    columns = {"prompt": ["a"]} | {f"c{number}": ["b"] for number in range(MAX_COLUMNS)}
    if name == "a.csv":
        (tmp_path / name).write_text(",".join(columns) + "\n")
    elif name == "a.arrow":
        write_arrow(tmp_path / name, [pa.record_batch(columns)])
    else:
        pa.parquet.write_table(pa.table(columns), tmp_path / name)

    with pytest.raises(PromptsError, match="has 10,001 columns; a prompt file may have 10,000"):
        found(tmp_path / name)


@pytest.mark.parametrize("key", ["", "by_name"])
def test_json_keys_that_vary_from_row_to_row_are_refused(tmp_path: Path, key: str) -> None:
    rows = [{f"name {number}": number} for number in range(MAX_KEYS + 1)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": "a"} | ({key: row} if key else row)) + "\n" for row in rows))

    with pytest.raises(PromptsError, match=r"have more than 1,000 different keys, such as `(by_name|name 1000)`"):
        found(path)


@pytest.mark.parametrize("nested", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 600, 900])
def test_json_that_is_nested_too_deep_is_refused_by_line(tmp_path: Path, nested: str, depth: int) -> None:
    (tmp_path / "a.jsonl").write_text(
        f'{{"prompt":"a","x":{nested * depth}1{("]" if nested == "[" else "}") * depth}}}\n'
    )

    with pytest.raises(
        PromptsError, match=r"line 1 of .*: column `x.* has more than 30 lists and objects in each other"
    ):
        found(tmp_path / "a.jsonl")


def test_json_may_be_nested_as_deep_as_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"prompt":"a","x":{"[" * MAX_DEPTH}1{"]" * MAX_DEPTH}}}\n')

    assert found(tmp_path / "a.jsonl").num_rows == 1
