"""Selected rows: which they are, that they keep their numbers, ids and seeds, and that a selection is made once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.toy_job import (
    faults_of,
    make_job,
    manifest_of,
    plan_job,
    rejected_of,
    render,
    rows_of,
    write_prompts,
)
from workflows.job import PromptReading, RenderJob
from workflows.output.claim import OtherJobError
from workflows.output.remaining import find_job_prompts
from workflows.prompts import PromptsError, find_prompt_files, read_rows, row_numbers
from workflows.row_filter import RowFilterError

NUM_ROWS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files: sixty rows in row groups of seven, none, and three rows without a category."""
    columns = {
        "prompt": [f"a picture of {number % 20}" for number in range(NUM_ROWS)],
        "category": ["Animals" if number % 3 else "Plants" for number in range(NUM_ROWS)],
        "score": [number / NUM_ROWS for number in range(NUM_ROWS)],
    }
    write_prompts(tmp_path / "prompts/a.parquet", columns, row_group_size=7)
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": pa.array([], pa.string())})
    write_prompts(tmp_path / "prompts/day=2/c.parquet", {"prompt": ["a picture of 3", "new", None], "seed": [1, 2, 3]})
    return tmp_path


def selected(folder: Path, **reading: Any) -> list[tuple[str, int]]:
    """The selected rows: (file, number)."""
    files = find_prompt_files(f"{folder}/prompts", {}, reading=PromptReading(**reading))
    found = [(file.name, number) for file in files for number in row_numbers(file, 0, file.num_rows, {})]
    for file in files:
        if file.num_rows:
            assert read_rows(file, 0, file.num_rows, {}).num_rows == file.num_rows
    return found


def numbers(folder: Path, **reading: Any) -> list[int]:
    """The selected rows, counted through the files."""
    offsets = {"a.parquet": 0, "day=2/c.parquet": NUM_ROWS}
    return [offsets[name] + number for name, number in selected(folder, **reading)]


def job_of(folder: Path, output: str = "out", **reading: Any) -> RenderJob:
    return make_job(folder / "prompts", folder / output, reading=PromptReading(**reading))


def test_a_condition_selects_by_columns_of_files_folders_and_by_null(folder: Path) -> None:
    assert numbers(folder, where="category = 'Plants' and score < 0.2") == [0, 3, 6, 9]
    assert numbers(folder, where="day = 2") == [60, 61, 62]
    assert numbers(folder, where="category is null and prompt is not null") == [60, 61]
    assert numbers(folder, where="seed >= 2 or score > 0.97") == [59, 61, 62]
    assert numbers(folder, where="false") == []


def test_the_first_rows_and_no_others_are_read(folder: Path) -> None:
    assert numbers(folder, limit=3) == [0, 1, 2]
    assert numbers(folder, limit=61) == list(range(61))
    assert numbers(folder, limit=1000) == list(range(63))
    assert numbers(folder, where="category = 'Plants'", limit=2) == [0, 3]


def test_a_sample_is_random_and_part_of_a_larger_one_with_the_same_seed(folder: Path) -> None:
    small, large = numbers(folder, sample=10), numbers(folder, sample=30)
    assert len(small) == 10
    assert set(small) < set(large)
    assert small == sorted(small)
    assert small != numbers(folder, sample=10, sample_seed=1)
    assert numbers(folder, sample=1000) == list(range(63))
    assert set(numbers(folder, sample=5, where="score > 0.5")) < set(range(31, 60))
    counts = [sum(row in numbers(folder, sample=21, sample_seed=seed) for seed in range(60)) for row in (0, 30, 61)]
    assert all(8 <= count <= 32 for count in counts)  # 20 expected


def test_duplicates_are_rows_with_the_prompt_and_the_settings_of_an_earlier_row(folder: Path) -> None:
    """The row with a seed of its own is none, nor is one without a prompt: it is rejected with its reason."""
    assert numbers(folder, deduplicate=True) == [*range(20), 60, 61, 62]
    assert numbers(folder, deduplicate=True, where="score >= 0.5") == list(range(30, 50))
    assert len(numbers(folder, deduplicate=True, sample=22)) == 22


def test_many_duplicates_in_many_batches_are_found(tmp_path: Path) -> None:
    chance = random.Random(0)
    prompts = [f"prompt {chance.randrange(2000)}" for _ in range(20_000)]
    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": prompts[:9000]}, row_group_size=100)
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": prompts[9000:], "cfg_weight": pa.nulls(11_000)})
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        first.setdefault(prompt, number)
    found = [number + 9000 * (name == "b.parquet") for name, number in selected(tmp_path, deduplicate=True)]
    assert found == sorted(first.values())


def test_a_selected_row_has_the_image_that_it_has_in_the_whole_job(folder: Path) -> None:
    whole, some = job_of(folder, "whole"), job_of(folder, "some", where="score > 0.3 or seed = 2", sample=9)
    render(whole)
    render(some)

    by_id = {row["image_id"]: row for row in manifest_of(whole)}
    assert len(manifest_of(some)) == 9
    for row in manifest_of(some):
        full = by_id[row["image_id"]]
        assert {**row, "image": "", "shard_id": ""} == {**full, "image": "", "shard_id": ""} | {
            name: row[name] for name in ("created_at",) if name in row
        }
    assert faults_of(some) == []


def test_shards_are_full_however_few_rows_are_selected(folder: Path) -> None:
    job = job_of(folder, where="category = 'Plants'")
    assert [shard.num_rows for shard in plan_job(job).remaining_shards()] == [4, 4, 4, 4, 4]
    assert [list(rows.row_numbers) for rows in rows_of(job)][:2] == [[0, 3, 6, 9], [12, 15, 18, 21]]


def test_a_rejected_row_has_its_number_in_the_file(folder: Path) -> None:
    job = job_of(folder, where="prompt is null or prompt = 'new'")
    render(job)
    assert [(row["row"], row["prompt_id"]) for row in rejected_of(job)] == [(2, "day=2~c-000000002")]
    assert faults_of(job) == []


def test_a_selection_is_made_once_and_read_by_later_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(folder, deduplicate=True, limit=10)
    render(job)
    monkeypatch.setattr("workflows.prompt_files.selection.select_rows._write", lambda *_: pytest.fail("selected again"))
    assert [file.num_rows for file in find_job_prompts(job)] == [10, 0, 0]
    assert faults_of(job) == []


def test_another_selection_on_the_same_output_is_refused_with_both_values(folder: Path) -> None:
    render(job_of(folder, where="score > 0.9"))
    with pytest.raises(OtherJobError, match=r"with where = .score > 0.9., this job has .score > 0.8.; finish"):
        render(job_of(folder, where="score > 0.8"))
    with pytest.raises(OtherJobError, match=r"with limit = null, this job has 5"):
        render(job_of(folder, where="score > 0.9", limit=5))


def test_files_can_be_added_to_a_job_with_a_condition_and_not_to_one_that_counts_rows(folder: Path) -> None:
    conditional, counted = job_of(folder, "conditional", where="score > 0.9"), job_of(folder, "counted", limit=5)
    render(conditional)
    render(counted)
    write_prompts(folder / "prompts/0.parquet", {"prompt": ["a", "b"], "score": [0.95, 0.1]})

    render(conditional)
    assert [row["prompt"] for row in manifest_of(conditional)].count("a") == 1
    with pytest.raises(PromptsError, match=r"files were added, removed or changed after rows of all files together"):
        render(counted)


def test_other_settings_and_interrupted_copies_are_not_taken_for_changed_files(folder: Path) -> None:
    job = job_of(folder, sample=5)
    render(job)
    assert sum(file.num_rows for file in find_job_prompts(job_of(folder, sample=7))) == 7

    (kept,) = (folder / "out/prompts").iterdir()
    kept.rename(f"{kept}.12345678.draft")
    assert sum(file.num_rows for file in find_job_prompts(job)) == 5


def test_a_wrong_condition_is_refused_before_a_row_is_read(folder: Path) -> None:
    with pytest.raises(RowFilterError, match=r"where: categry is no column .*are prompt, category, score"):
        selected(folder, where="categry = 'x'")
    with pytest.raises(RowFilterError, match=r"where: fails on a row: Could not convert string 'a picture of 0'"):
        selected(folder, where="prompt::int > 3")


def test_a_condition_may_use_the_names_in_the_file_or_those_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Caption,prompt,my_seed\na cat,old,7\na dog,old,8\n")
    columns = {"prompt": "Caption", "seed": "my_seed"}
    for where in ("Caption = 'a dog'", "prompt = 'a dog'", "my_seed = 8", "seed = 8 and caption like '%dog'"):
        reading = PromptReading(columns=columns, where=where)
        (file,) = find_prompt_files(str(tmp_path / "a.csv"), {}, reading=reading)
        assert read_rows(file, 0, 1, {}).to_pylist() == [{"prompt": "a dog", "seed": 8}]


def test_rows_with_text_that_is_not_utf8_are_selected_and_rejected_later(tmp_path: Path) -> None:
    broken = pa.array([b"\xff", b"ok", b"ok"], pa.binary()).view(pa.string())
    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": broken})
    assert [number for _, number in selected(tmp_path, deduplicate=True, where="length(prompt) > 0")] == [0, 1]


def test_a_condition_that_names_no_column_of_a_file_knows_its_number_of_rows(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/day=1/a.parquet", {"prompt": ["a", "b"]})
    write_prompts(tmp_path / "prompts/day=2/a.parquet", {"prompt": ["c", "d", "e"]})
    for where in ("day = 2", "true and day > 1"):
        assert selected(tmp_path, where=where) == [("day=2/a.parquet", number) for number in range(3)]


def test_jobs_that_look_at_images_select_their_rows_too(tmp_path: Path) -> None:
    columns = {"image": ["1.png", "2.png", "1.png", None], "question": ["what?"] * 4, "score": [1, 2, 3, 4]}
    write_prompts(tmp_path / "prompts/a.parquet", columns)
    found = {"reads_images": True, "deduplicate": True}
    assert [number for _, number in selected(tmp_path, **found)] == [0, 1, 3]
    assert [number for _, number in selected(tmp_path, **found, where="score > 1")] == [1, 2, 3]
