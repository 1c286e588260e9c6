"""Prompts as a program gives them: texts, rows in many forms, or a location."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.api.given import given_prompts
from workflows.prompt_files.file import PromptsError

ROWS = [{"prompt": "a fox", "id": "fox"}, {"prompt": "a cat", "id": "cat", "seed": 7}]
AS_COLUMNS = {"prompt": ["a fox", "a cat"], "id": ["fox", "cat"], "seed": [None, 7]}


@pytest.mark.parametrize(
    "texts",
    [
        ["a fox", "a cat"],
        ("a fox", "a cat"),
        iter(["a fox", "a cat"]),
        np.array(["a fox", "a cat"]),
        pa.array(["a fox", "a cat"]),
        pa.chunked_array([["a fox"], ["a cat"]]),
    ],
    ids=["list", "tuple", "iterator", "array", "Arrow array", "chunked array"],
)
def test_texts_are_rows_with_a_prompt(texts: object) -> None:
    assert given_prompts(texts).to_pydict() == {"prompt": ["a fox", "a cat"]}


def test_a_series_of_texts_is_a_list_of_texts() -> None:
    assert given_prompts(pd.Series(["a fox"], name="caption")).to_pydict() == {"prompt": ["a fox"]}


@pytest.mark.parametrize(
    "rows",
    [ROWS, AS_COLUMNS, pd.DataFrame(ROWS), pa.table(AS_COLUMNS), pa.table(AS_COLUMNS).to_batches()[0]],
    ids=["dicts", "columns", "pandas", "arrow", "batch"],
)
def test_rows_keep_their_columns(rows: object) -> None:
    table = given_prompts(rows)

    assert table.to_pydict() == AS_COLUMNS
    assert table.schema.metadata is None


def test_a_data_frame_keeps_an_index_with_a_name_only() -> None:
    frame = pd.DataFrame(ROWS)

    assert given_prompts(frame[frame.id == "cat"]).column_names == ["prompt", "id", "seed"]
    assert given_prompts(frame.set_index("id")).to_pydict()["id"] == ["fox", "cat"]


def test_anything_that_streams_arrow_is_a_table() -> None:
    class Frame:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"prompt": ["a fox"]}).__arrow_c_stream__(requested_schema)

    assert given_prompts(Frame()).to_pydict() == {"prompt": ["a fox"]}


def test_locations_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()

    for location in (tmp_path / "prompts", "s3://bucket/prompts", f"{tmp_path}/*.parquet"):
        assert given_prompts(location) == str(location)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a red fox", r"there is no file or folder .*/a red fox\. .*give prompts as a list: prompts=\['a red fox'\]"),
        (["a fox", {"prompt": "a cat"}], "item 2 is dict; a list holds texts only, or dicts only"),
        ([{"prompt": "a cat"}, "a fox"], "item 2 is str"),
        (["a fox", None, 7], "item 3 is int"),
        ({"a fox"}, "got a set, which has no order"),
        ([7], "item 1 is int"),
        (7, "got int; prompts are a list of texts, rows"),
        (b"a fox", "got bytes"),
        (["\ud800"], "these are no rows .*surrogates not allowed"),
        ([{"prompt": "a", "n": 1}, {"prompt": "b", "n": "x"}], "column n has values of more than one type"),
        ({"prompt": ["a"], "n": [object()]}, "column n has values of more than one type"),
        (pd.DataFrame({"prompt": ["a", 1]}), "these are no rows .*Conversion failed for column prompt"),
        ({"prompt": ["a"], "seed": 7}, "column seed must be a list, got 7"),
        ({"prompt": ["a"], "id": ["x", "y"]}, "these are no rows"),
        ({"prompt": "a fox"}, "column prompt must be a list, got 'a fox'"),
    ],
)
def test_what_is_no_prompts_is_refused(prompts: object, message: str) -> None:
    with pytest.raises(PromptsError, match=message):
        given_prompts(prompts)
