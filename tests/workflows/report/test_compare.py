"""The comparison of two outputs: which images are pairs, what differs, and what has no partner."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support import toy_job
from tests.support.report_page import Page
from workflows.job import Images, RenderJob
from workflows.report import compare
from workflows.report.compare import Comparison, NotComparableError, write_comparison
from workflows.storage.store import Storage


def output(folder: Path, prompts: list[str], *, ids: list[str] | None = None, **changes: Any) -> RenderJob:
    """A rendered toy job."""
    columns = {"prompt": prompts, **({"id": ids} if ids else {})}
    path = toy_job.write_prompts(folder / "prompts.parquet", columns)
    job = toy_job.make_job(path, folder / "out", name=folder.name, **changes)
    toy_job.render(job)
    return job


def compared(first: RenderJob, second: RenderJob, file: Path) -> tuple[Comparison, Page]:
    comparison = write_comparison(Storage(first.output), Storage(second.output), str(file))
    return comparison, Page(file.read_text())


@pytest.fixture
def first(tmp_path: Path) -> RenderJob:
    return output(tmp_path / "a", ["one", "two", "three"], ids=["1", "2", "3"])


def test_images_of_one_prompt_and_seed_are_in_one_row(tmp_path: Path, first: RenderJob) -> None:
    recipe = toy_job.recipe(cfg_weights=(2.0, 7.0))
    second = output(tmp_path / "b", ["two", "three", "four"], ids=["2", "3", "4"], recipe=recipe)

    comparison, page = compared(first, second, tmp_path / "c.html")

    assert (comparison.num_pairs, comparison.num_shown, comparison.num_alone) == (2, 2, (1, 1))
    assert page.data["columns"] == ["A · weight 5", "B · weight 2", "B · weight 7"]
    assert page.data["sides"] == [0, 1, 1]
    assert page.images["id"] == ["2_0", "3_0", "2_0_w2", "2_0_w7", "3_0_w2", "3_0_w7"]
    assert page.images["row"] == [0, 1, 0, 0, 1, 1]
    assert page.images["column"] == [0, 0, 1, 2, 1, 2]
    assert "1 prompts and seeds are only in A Id Prompt 1 one" in page.text
    assert "1 prompts and seeds are only in B Id Prompt 4 four" in page.text


def test_other_seeds_are_no_pairs(tmp_path: Path, first: RenderJob) -> None:
    second = output(tmp_path / "b", ["one", "two", "three"], ids=["1", "2", "3"], recipe=toy_job.recipe(seed=1))
    with pytest.raises(NotComparableError, match=r"have no image with the same prompt id, seed and image index"):
        compared(first, second, tmp_path / "c.html")


def test_an_image_with_a_seed_of_its_own_is_paired_by_it(tmp_path: Path) -> None:
    jobs = []
    for name, seeds in (("a", [7, 8]), ("b", [7, 9])):
        columns = {"prompt": ["one", "two"], "id": ["1", "2"], "image_seed": pa.array(seeds, pa.uint64())}
        path = toy_job.write_prompts(tmp_path / name / "prompts.parquet", columns)
        jobs.append(toy_job.make_job(path, tmp_path / name / "out"))
        toy_job.render(jobs[-1])

    comparison, page = compared(*jobs, tmp_path / "c.html")

    assert (comparison.num_pairs, comparison.num_alone) == (1, (1, 1))
    assert page.images["seed"] == ["7", "7"]
    assert f"{jobs[0].output} and {jobs[1].output}" in page.text  # the names of the jobs and of the folders are equal


def test_settings_that_differ_are_named(tmp_path: Path, first: RenderJob) -> None:
    recipe = toy_job.recipe(temperature=0.5, judge=toy_job.judge(question="A {prompt}?"))
    second = output(
        tmp_path / "b", ["one", "two", "three"], ids=["1", "2", "3"], recipe=recipe, images=Images(layout="parquet")
    )

    comparison, page = compared(first, second, tmp_path / "c.html")

    names = [difference.name for difference in comparison.facts.differences]
    assert names[0] == "temperature"
    assert {"judge", "images.layout"} <= set(names)
    assert "recipe" not in " ".join(names)
    assert "temperature 1 0.5" in page.text
    assert "judge none question A {prompt}?, best_of 1" in page.text


def test_equal_outputs_differ_in_nothing(tmp_path: Path, first: RenderJob) -> None:
    comparison, page = compared(first, first, tmp_path / "c.html")
    assert comparison.facts.differences == []
    assert "The settings are the same." in page.text
    assert "Every prompt and seed of A has a partner." in page.text


def test_other_prompts_under_the_same_id_are_counted(tmp_path: Path, first: RenderJob) -> None:
    second = output(tmp_path / "b", ["one", "another", "three"], ids=["1", "2", "3"])
    comparison, page = compared(first, second, tmp_path / "c.html")
    assert comparison.facts.num_other_prompts == 1
    assert "1 pairs have other prompts under the same id." in page.text


def test_scores_are_compared_over_the_pairs(tmp_path: Path) -> None:
    prompts, ids = ["one", "two", "three"], ["1", "2", "3"]
    recipe = toy_job.recipe(judge=toy_job.judge())
    first = output(tmp_path / "a", prompts, ids=ids, recipe=recipe)
    second = output(tmp_path / "b", prompts, ids=ids, recipe=dataclasses.replace(recipe, cfg_weights=(2.0, 7.0)))

    comparison, page = compared(first, second, tmp_path / "c.html")

    before = {row["prompt_id"]: row["judge_score"] for row in toy_job.manifest_of(first)}
    rows = toy_job.manifest_of(second)
    after = {i: sum(row["judge_score"] for row in rows if row["prompt_id"] == i) / 2 for i in ids}
    [scores] = comparison.facts.scores
    assert (scores.name, scores.num_pairs) == ("judge_score", 3)
    assert (scores.mean_first, scores.mean_second) == pytest.approx((sum(before.values()) / 3, sum(after.values()) / 3))
    assert scores.num_second_higher == sum(after[i] > before[i] for i in ids)
    assert page.data["differences"] == [0]


def test_a_large_comparison_shows_pairs_at_even_intervals(
    tmp_path: Path, first: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "MAX_IMAGES", 20)
    prompts = [f"prompt {i}" for i in range(50)]
    jobs = [output(tmp_path / name, prompts, shard_rows=7) for name in ("x", "y")]

    comparison, page = compared(*jobs, tmp_path / "c.html")

    assert (comparison.num_pairs, comparison.num_shown) == (50, 10)
    assert [int(image_id[-4:-2]) for image_id in page.images["id"]] == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47] * 2
    assert "This page shows 10 of the 50 pairs" in page.text


def test_images_are_linked_from_where_the_page_is(tmp_path: Path, first: RenderJob) -> None:
    (tmp_path / "pages").mkdir()
    _, page = compared(first, first, tmp_path / "pages/c.html")
    assert all((tmp_path / "pages" / link).is_file() for link in page.images["link"])
    assert not any(os.path.isabs(link) for link in page.images["link"])


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, first: RenderJob) -> None:
    with pytest.raises(NotComparableError, match=r"nowhere/c.html cannot be written: No such file"):
        compared(first, first, tmp_path / "nowhere/c.html")
