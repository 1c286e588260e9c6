from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from workflows.scores.columns import settle_columns, to_table
from workflows.scores.parts import Scorer, ScoresError, read_scores, write_scores
from workflows.storage.store import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_values_have_plain_types(storage: Storage) -> None:
    table = to_table(
        storage,
        "mine",
        {
            "number": [1, 2.5, None],
            "count": [1, 2, 3],
            "similarity": np.array([0.5, np.nan, 1], np.float32),
            "is_good": [True, None, np.False_],
            "text": ["a", None, "c"],
            "vector": [np.array([1, 2.0]), [3, 4], None],
        },
    )

    assert dict(zip(table.column_names, table.schema.types, strict=True)) == {
        "number": pa.float64(),
        "count": pa.float64(),
        "similarity": pa.float32(),
        "is_good": pa.bool_(),
        "text": pa.string(),
        "vector": pa.list_(pa.float32()),
    }
    assert table["similarity"].to_pylist() == [0.5, None, 1]
    assert table["vector"].to_pylist() == [[1, 2], [3, 4], None]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.5], [2], [2.0]),
        ([2], [None], [None]),
        ([None], [2.5], [2.5]),
        (["a"], [None], [None]),
        (np.array([1], np.float32), [0.5], [0.5]),
    ],
)
def test_every_part_has_the_types_of_the_first(
    storage: Storage, first: list[object], second: list[object], expected: list[object]
) -> None:
    tables = [to_table(storage, "mine", {"score": values}) for values in (first, second)]

    assert tables[0].schema == tables[1].schema
    assert tables[1]["score"].to_pylist() == expected


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": [1]}, {"a": ["x"]}, "in the first part it is double, got 'string'"),
        ({"a": ["x"]}, {"a": [True]}, "in the first part it is string, got 'bool'"),
        ({"a": [1]}, {"a": [1], "b": [1]}, "gave the columns a for other images, and a, b for these"),
    ],
)
def test_other_columns_than_in_the_first_part_are_refused(
    storage: Storage, first: dict[str, list[object]], second: dict[str, list[object]], message: str
) -> None:
    to_table(storage, "mine", first)

    with pytest.raises(ScoresError, match=message):
        to_table(storage, "mine", second)


@pytest.mark.parametrize("values", [["x"], [True], [0.5], [[1.0, 2.0]], np.array([1], np.float32)], ids=repr)
def test_the_first_value_decides_the_type_of_a_column(storage: Storage, values: list[object]) -> None:
    """Parts that were written before have its type afterwards, and the bytes that they would have had."""
    scorer, keys = Scorer(name="mine", version="1"), pa.table({"image_id": ["a"], "image_sha256": ["1" * 64]})

    def write(part: str, found: object) -> None:
        column = to_table(storage, "mine", {"found": found})["found"]
        write_scores(storage, scorer, part, keys.append_column("found", column))

    for part, found in (("p1", [None]), ("p2", values), ("p3", [None])):
        write(part, found)
    settle_columns(storage, "mine")
    early = storage.read("scores/mine/p1.parquet")
    storage.remove("scores/mine/p1.parquet")
    write("p1", [None])
    settle_columns(storage, "mine")

    tables = [read_scores(storage, "mine", part) for part in ("p1", "p2", "p3")]
    assert early == storage.read("scores/mine/p1.parquet")
    assert [table["found"].to_pylist() for table in tables] == [[None], list(values), [None]]
    assert len({table.schema for table in tables}) == 1
    assert pyarrow.dataset.dataset(storage.path("scores/mine")).to_table().num_rows == 3
    with pytest.raises(ScoresError, match=r"column `found` must hold .* the same in all parts"):
        to_table(storage, "mine", {"found": [[1.0]] if values == ["x"] else ["x"]})


def test_numbers_that_float64_lacks_become_the_nearest_one(storage: Storage) -> None:
    table = to_table(storage, "mine", {"hash": [2**63 - 1], "vector": [[2**60, 2**60 + 1]]})

    assert table["hash"].to_pylist() == [2.0**63]
    assert table["vector"].to_pylist() == [[2.0**60, 2.0**60]]


def test_names_that_cannot_be_printed_are_no_names_of_scores(storage: Storage) -> None:
    for column in ("a\nb", "\ud800"):
        with pytest.raises(ScoresError, match=r"a column of scores cannot have the name '(a\\nb|\\ud800)'"):
            to_table(storage, "mine", {column: [1.0]})


@pytest.mark.parametrize("column", ["", "image_id", "image_sha256"])
def test_names_of_keys_are_no_names_of_scores(storage: Storage, column: str) -> None:
    with pytest.raises(ScoresError, match=f"a column of scores cannot have the name '{column}'"):
        to_table(storage, "mine", {column: [1.0]})


@pytest.mark.parametrize("values", [[1, "a"], [object()], [[1], "a"], [2**70]])
def test_values_of_several_types_are_refused(storage: Storage, values: list[object]) -> None:
    with pytest.raises(ScoresError, match="scorer mine: column `a` must hold numbers, texts or lists of one type: "):
        to_table(storage, "mine", {"a": values})


@pytest.mark.parametrize("values", [[{"x": 1}], [b"bytes"], [["a"]], [[[1.0]]], [[True]]])
def test_values_that_no_rule_can_compare_are_refused(storage: Storage, values: list[object]) -> None:
    with pytest.raises(ScoresError, match="must hold numbers, text, booleans or vectors"):
        to_table(storage, "mine", {"a": values})
