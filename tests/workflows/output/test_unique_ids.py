"""Rows with the id of another row are refused before anything is rendered, and no others are."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.toy_job import bytes_of, faults_of, make_job, manifest_of, render, write_prompts
from workflows.job import PromptReading, RenderJob
from workflows.output.given_prompts import given_prompts_location, store_prompts
from workflows.output.remaining import check_ids, find_job_prompts
from workflows.prompt_files.selection import repeated_ids
from workflows.prompts import PromptsError, rows_with_same_ids


def job_of(folder: Path, files: dict[str, dict[str, Any]], **reading: Any) -> RenderJob:
    """A job of prompt files with these columns; the prompts are made up if there are none."""
    for name, columns in files.items():
        num_rows = len(next(iter(columns.values())))
        made_up = {"prompt": [f"{name} {number}" for number in range(num_rows)]}
        write_prompts(folder / "prompts" / name, made_up | columns)
    return make_job(folder / "prompts", folder / "out", reading=PromptReading(**reading))


def check(job: RenderJob) -> None:
    check_ids(job, find_job_prompts(job))


@pytest.mark.parametrize(
    ("files", "rows", "num_others"),
    [
        ({"a.parquet": {"id": ["x", "y", "x"]}}, "row 0 of {}/a.parquet and row 2 of {}/a.parquet", 1),
        (
            {"a.parquet": {"id": ["w", "x"]}, "b.parquet": {"id": ["x", "z", "w"]}, "c.parquet": {"id": ["x"]}},
            "row 0 of {}/a.parquet and row 2 of {}/b.parquet",
            3,
        ),
        ({"a.parquet": {"id": [8, 7]}, "b.parquet": {"id": ["7"]}}, "row 1 of {}/a.parquet and row 0 of {}/b.p", 1),
        ({"id=5/a.parquet": {"prompt": ["a", "b"]}}, "row 0 of {}/id=5/a.parquet and row 1 of {}/id=5/a.parquet", 1),
        (
            {
                "a.parquet": {"id": pa.array(["x"]).dictionary_encode()},
                "b.parquet": {"id": pa.array(["x"], "string_view")},
            },
            "row 0 of {}/a.parquet and row 0 of {}/b.parquet",
            1,
        ),
    ],
)
def test_two_rows_with_one_id_are_refused_by_name(
    tmp_path: Path, files: dict[str, Any], rows: str, num_others: int
) -> None:
    job = job_of(tmp_path, files)

    with pytest.raises(PromptsError, match="have the same id '") as refused:
        check(job)

    assert rows.format(*[f"file://{tmp_path}/prompts"] * 2) in str(refused.value)
    assert f"and {num_others} repeat an earlier id" in str(refused.value)
    assert str(refused.value).endswith("leave out rows that ask for the same images (deduplicate: true)")


@pytest.mark.parametrize(
    "files",
    [
        {"a/b.parquet": {"prompt": ["x"]}, "a~b.parquet": {"prompt": ["y"]}},
        {"a.parquet": {"prompt": ["x", "y"]}, "b.parquet": {"id": ["a-000000001"]}},
    ],
)
def test_ids_that_rows_get_from_the_names_of_their_files_count(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(PromptsError, match="a file without a column `id` gets the ids of its rows from its name"):
        check(job_of(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "reading"),
    [
        ({"a.parquet": {"prompt": ["x", "x"]}, "b.parquet": {"prompt": ["x"]}}, {}),
        ({"a.parquet": {"prompt": ["x", "y"]}, "b.parquet": {"id": ["a-000000002", "a-1"]}}, {}),
        ({"a.parquet": {"id": ["x", "X", "x ", "", "", "a/b", "a/b", None, None]}}, {}),  # the last six are rejected
        ({"a.parquet": {"id": pa.array([b"\xff", b"\xff"]).view(pa.string())}}, {}),
        ({"a.parquet": {"id": ["x", "y", "x"]}}, {"limit": 2}),
        ({"a.parquet": {"id": ["x", "y", "x"], "n": [1, 2, 3]}}, {"where": "n > 1"}),
        ({"a.parquet": {"id": ["x", "x"], "prompt": ["same", "same"]}}, {"deduplicate": True}),
        ({"a.parquet": {"id": ["x", "x"], "uid": [1, 2]}}, {"columns": {"id": "uid"}}),
    ],
)
def test_rows_that_share_no_id_are_not_refused(tmp_path: Path, files: dict[str, Any], reading: dict[str, Any]) -> None:
    check(job_of(tmp_path, files, **reading))


def test_committed_rows_are_no_reason_to_refuse_a_job_until_a_file_repeats_their_ids(tmp_path: Path) -> None:
    """An output of an older version may have them."""
    job = job_of(tmp_path, {"a.parquet": {"id": ["x", "y"]}, "b.parquet": {"id": ["x"]}})
    render(job)

    check(job)

    write_prompts(tmp_path / "prompts/c.parquet", {"prompt": ["new", "newer"], "id": ["z", "y"]})
    with pytest.raises(PromptsError, match=r"row 1 of .*/a.parquet and row 1 of .*/c.parquet have the same id 'y'"):
        check(job)


def test_a_committed_row_without_an_image_leaves_its_id_to_another_row(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"a.parquet": {"id": ["x", "y"], "prompt": [None, "a fox"]}})
    render(job)
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": ["a cat"], "id": ["x"]})

    check(job)
    render(job)

    assert faults_of(job) == []


def test_a_table_is_refused_before_the_output_holds_it(tmp_path: Path) -> None:
    """The output would refuse the corrected table as other prompts."""
    output = tmp_path / "out"
    job = make_job(given_prompts_location(str(output)), output)

    with pytest.raises(PromptsError, match="row 0 of the table and row 1 of the table have the same id 'x'"):
        store_prompts(job, pa.table({"prompt": ["a", "b"], "id": ["x", "x"]}))
    assert bytes_of(tmp_path) == {}

    store_prompts(job, pa.table({"prompt": ["a", "b"], "id": ["x", "y"]}))
    check(job)


def test_every_repeated_id_is_found_however_the_hashes_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_ids, "BUCKET_ROWS", 7)
    monkeypatch.setattr(repeated_ids, "PIECE_ROWS", 3)
    chance = random.Random(0)
    ids = {f"{name}.parquet": [str(chance.randrange(60)) for _ in range(25)] for name in "abc"}
    job = job_of(tmp_path, {name: {"id": found} for name, found in ids.items()}, where="prompt not like '%4'")
    counts = Counter(text for found in ids.values() for number, text in enumerate(found) if number % 10 != 4)

    found = list(rows_with_same_ids(find_job_prompts(job), {}))

    assert [(text, place.file.name, place.number) for text, place in found] == [
        (text, name, number)
        for name in ids
        for number, text in enumerate(ids[name])
        if number % 10 != 4 and counts[text] > 1
    ]
    assert [place.position for _, place in found] == [place.number - (place.number + 5) // 10 for _, place in found]


@pytest.mark.parametrize(
    "files",
    [
        {"a.parquet": {"id": [3, 3]}, "b.parquet": {"id": [4, 3]}},
        {
            "id=3/a.parquet": {"prompt": ["a", "b"]},
            "id=4/a.parquet": {"prompt": ["c"]},
            "id=3/b.parquet": {"seed": [1]},
        },
    ],
)
def test_a_column_that_is_no_id_is_carried_under_another_name(tmp_path: Path, files: dict[str, Any]) -> None:
    job = job_of(tmp_path, files, columns={"id": None, "seed": None}, where="original_id = 3 or id = 4")

    check(job)
    render(job)
    rows = manifest_of(job)
    assert len({row["prompt_id"] for row in rows}) == 4
    assert sorted(row["original_id"] for row in rows) == [3, 3, 3, 4]
    assert {row["row_seed"] for row in rows} != {1}


def test_a_name_that_the_carried_column_would_take_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"a.parquet": {"id": ["x", "x"], "original_id": [1, 2]}}, columns={"id": None})

    with pytest.raises(PromptsError, match="`original_id`, the name under which its `id` would be carried"):
        check(job)
