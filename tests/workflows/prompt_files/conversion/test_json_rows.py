"""JSON lines: nested values, one type for each column, and faults named by their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from workflows.job import PromptReading
from workflows.prompts import PromptFile, PromptsError, find_prompt_files, read_rows


def found(folder: Path, objects: list[Any] | str) -> PromptFile:
    text = objects if isinstance(objects, str) else "".join(json.dumps(row) + "\n" for row in objects)
    (folder / "a.jsonl").write_text(text)
    (file,) = find_prompt_files(str(folder / "a.jsonl"), {})
    return file


def rows(folder: Path, objects: list[Any] | str) -> list[dict[str, Any]]:
    file = found(folder, objects)
    return read_rows(file, 0, file.num_rows, {}).to_pylist()


def test_nested_values_and_missing_keys(tmp_path: Path) -> None:
    objects = [
        {"prompt": "a", "tags": ["x", "y"], "meta": {"source": "web", "size": [1, 2]}},
        {"prompt": "b", "tags": [], "meta": {"score": 0.5}, "late": True},
        {"prompt": "c", "tags": None, "empty": {}, "id": "007"},
    ]
    assert rows(tmp_path, objects) == [
        {
            "prompt": "a",
            "id": None,
            "tags": ["x", "y"],
            "meta": {"source": "web", "size": [1, 2], "score": None},
            "late": None,
            "empty": None,
        },
        {
            "prompt": "b",
            "id": None,
            "tags": [],
            "meta": {"source": None, "size": None, "score": 0.5},
            "late": True,
            "empty": None,
        },
        {"prompt": "c", "id": "007", "tags": None, "meta": None, "late": None, "empty": None},
    ]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, -2, None], pa.int64()),
        ([1, 2**64 - 1], pa.uint64()),
        ([1, 2.5], pa.float64()),
        ([True, None], pa.bool_()),
        ([[1], [2.5], []], pa.list_(pa.float64())),
        ([None, None], pa.string()),
        ([[], []], pa.list_(pa.string())),
        ([{}, {"a": {}}], pa.struct([("a", pa.string())])),
    ],
)
def test_a_column_has_the_type_of_all_its_values(tmp_path: Path, values: list[Any], kind: pa.DataType) -> None:
    file = found(tmp_path, [{"prompt": "p", "x": value} for value in values])
    assert file.carried.field("x").type == kind
    assert read_rows(file, 0, len(values), {}).num_rows == len(values)


def test_types_are_those_of_the_whole_file(tmp_path: Path) -> None:
    file = found(tmp_path, [{"prompt": "p", "x": 1}] * 30_000 + [{"prompt": "p", "x": 0.5}])
    assert read_rows(file, 29_999, 30_001, {})["x"].to_pylist() == [1.0, 0.5]


def test_empty_lines_are_skipped_and_counted_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    (file,) = find_prompt_files(str(tmp_path), {})
    assert (file.num_rows, file.num_skipped) == (2, 1)


def test_a_file_without_lines_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    for columns in ({}, {"prompt": "Caption"}):
        (file,) = find_prompt_files(str(tmp_path), {}, reading=PromptReading(columns=columns))
        assert (file.num_rows, file.num_skipped, file.read.names) == (0, 1, ["prompt"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": "b", "x": {"y": 1, "y": 2}}\n', "line 2 of .*a.jsonl has the key `y` twice"),
        ('{"prompt": "a"}\n{"prompt": \n', r"line 2 of .*a.jsonl is no JSON: Expecting value"),
        ('{"prompt": "a"}\n\n[1]\n', r"line 3 of .*a.jsonl must be a JSON object, got \[1\]"),
        ('[\n{"prompt": "a"}\n]\n', r"a.jsonl is one JSON value over several lines; write each object on a line"),
        ('{\n"prompt": "a"\n}\n', r"is one JSON value over several lines"),
        ('[{"prompt": "a"}]', r"line 1 of .*a.jsonl must be a JSON object, got \[\{.*; write each object on a line"),
        ('{"prompt": "a"}\n{"prompt": "b", "x": 1e999}', r"line 2 of .* has a number that 64 bits do not hold, 1e999"),
        ('{"prompt": "a", "x": -0.01e-999}', r"line 1 of .* has a number that 64 bits do not hold, -0.01e-999"),
        (
            '{"prompt": "a", "x": 1}\n{"prompt": "b", "x": "1"}\n',
            r"line 2 of .*: column `x` has numbers and text; a col",
        ),
        ('{"prompt": "a", "x": true}\n{"prompt": "b", "x": 1}\n', r"line 2 of .*: column `x` has .*numbers"),
        ('{"prompt": "a", "m": {"k": [1, "1"]}}\n', r"line 1 of .*: column `m.k\[\]` has numbers and text"),
        ('{"prompt": "a", "x": 1267650600228229401496703205376}\n', r"line 1 of .*whole numbers of more than 64 bits"),
        ('{"prompt": "a", "x": 9007199254740993}\n{"prompt": "a", "x": 0.5}\n', r"line 2 of .*above 2\^53"),
        ('{"prompt": "\\ud800"}\n', r"line 1 of .*a.jsonl has text that is not valid Unicode"),
        ("[" * 100_000 + "\n", r"line 1 of .*a.jsonl"),
        ('{"caption": "a"}\n', r"did you mean `--set prompt_column=caption`"),
        ('{"prompt": 5}\n', r"column `prompt` of .*a.jsonl must hold text, it holds int64"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PromptsError, match=message) as refused:
        found(tmp_path, text)
    assert "\n" not in str(refused.value)
