"""The selection of images for the report of a large job, and the totals it is based on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import toy_job
from workflows.output.layouts import parquet_bytes
from workflows.output.manifest import committed_parts, read_table
from workflows.report.selection import MAX_PACKS, MIN_SEEDS, load_images, select_images, spread
from workflows.report.survey import NUM_CLEAREST, ShardCount, Survey, survey_manifest
from workflows.storage.store import Storage


def survey_of(num_shards: int, num_prompts: int, images_per_prompt: int) -> Survey:
    """A survey of equal shards without statistics."""
    shard = {"num_prompts": num_prompts, "num_images": num_prompts * images_per_prompt}
    return Survey(shards=[ShardCount(shard_id=f"{i:04d}", **shard) for i in range(num_shards)])


def positions_of(prompts: dict[str, list[int]], prompts_per_shard: int) -> np.ndarray:
    return np.array(
        [int(shard) * prompts_per_shard + position for shard, found in prompts.items() for position in found]
    )


def test_all_images_of_a_small_job_are_selected() -> None:
    selection = select_images(survey_of(3, 5, 4), num_seeds=4, is_packed=False, max_images=60)
    assert selection.prompts == {"0000": [0, 1, 2, 3, 4], "0001": [0, 1, 2, 3, 4], "0002": [0, 1, 2, 3, 4]}
    assert selection.num_seeds == 4


@pytest.mark.parametrize("num_weights", [1, 3])
def test_prompts_of_a_large_job_are_selected_at_even_intervals(num_weights: int) -> None:
    survey = survey_of(100, 250, 4 * num_weights)
    selection = select_images(survey, num_seeds=4, is_packed=False, max_images=1200)

    positions = positions_of(selection.prompts, 250)

    assert len(positions) == 1200 // (4 * num_weights)
    assert np.ptp(np.diff(positions)) <= 1
    assert positions[0] < 25_000 / len(positions)
    assert selection.num_seeds == 4


def test_a_selection_drops_seeds_before_prompts_down_to_a_minimum() -> None:
    selections = [
        select_images(survey_of(1, num_prompts, 1000), num_seeds=1000, is_packed=False, max_images=1000)
        for num_prompts in (10, 200, 1000)
    ]
    assert [(len(selection.prompts["0000"]), selection.num_seeds) for selection in selections] == [
        (10, 100),
        (200, 5),
        (250, MIN_SEEDS),
    ]


def test_a_selection_reads_packs_of_a_few_shards_only() -> None:
    selection = select_images(survey_of(1000, 100, 1), num_seeds=1, is_packed=True, max_images=1000)
    assert len(selection.prompts) == MAX_PACKS
    assert np.ptp(np.diff([int(shard) for shard in selection.prompts])) <= 1
    assert sum(map(len, selection.prompts.values())) == 1000


@pytest.mark.parametrize(("num", "expected"), [(1, [5]), (2, [2, 7]), (9, [0, 1, 2, 3, 5, 6, 7, 8, 9])])
def test_spread_is_even(num: int, expected: list[int]) -> None:
    assert list(spread(range(10), num)) == expected


def test_clear_matches_of_a_rule_are_added_to_a_selection(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {i}" for i in range(300)]})
    job = toy_job.make_job(path, tmp_path / "out", shard_rows=100)
    toy_job.render(job)
    storage = Storage(job.output)
    survey = survey_manifest(storage, committed_parts(storage), (5.0,))

    selection = select_images(survey, num_seeds=1, is_packed=False, max_images=10)
    images = load_images(storage, selection, survey.near_duplicates)

    assert [image.is_extra for image in images] == [False] * 10 + [True] * (len(images) - 10)
    shown = {image.row["image_id"] for image in images}
    lowest = sorted((row["contrast"], row["image_id"]) for row in toy_job.manifest_of(job))
    blank = [image_id for contrast, image_id in lowest if contrast < 0.02]
    assert survey.num_matching["blank"] == len(blank) > 10
    assert set(blank[:NUM_CLEAREST]) <= shown


def test_totals_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    columns = {"prompt": [f"prompt {i}" for i in range(40)], "cfg_weight": [2.0, None] * 20}
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", columns)
    surveys = []
    for shard_rows in (40, 7):
        job = toy_job.make_job(path, tmp_path / str(shard_rows), shard_rows=shard_rows)
        toy_job.render(job)
        storage = Storage(job.output)
        surveys.append(survey_manifest(storage, committed_parts(storage), (5.0,)))
    one, many = surveys
    assert (one.num_images, one.num_prompts, len(one.shards), len(many.shards)) == (40, 40, 1, 6)
    assert (many.num_images, many.num_prompts, many.num_matching, many.sizes) == (40, 40, one.num_matching, one.sizes)
    assert list(one.weights) == list(many.weights) == [2.0, 5.0]
    for weight, facts in one.weights.items():
        assert facts.num_images == many.weights[weight].num_images == 20
        assert all((facts.histograms[name] == many.weights[weight].histograms[name]).all() for name in facts.histograms)


def test_rare_weights_share_one_histogram(tmp_path: Path) -> None:
    weights = [1 + i / 100 for i in range(100)]
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"] * 100, "cfg_weight": weights})
    job = toy_job.make_job(path, tmp_path / "out", shard_rows=100)
    toy_job.render(job)
    storage = Storage(job.output)
    survey = survey_manifest(storage, committed_parts(storage), (5.0,))
    assert list(survey.weights) == [*weights[:11], 5.0, None]
    assert survey.weights[None].num_images == 100 - 11


def test_images_of_one_seed_at_two_weights_are_not_near_duplicates(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    job = toy_job.make_job(path, tmp_path / "out", recipe=toy_job.recipe(cfg_weights=(1.0, 5.0)))
    toy_job.render(job)
    storage = Storage(job.output)
    [shard] = committed_parts(storage)
    table = read_table(storage, f"manifest/{shard}.parquet")
    hashes = ["0f" * 8, "0f" * 8, "33" * 8, "0f" * 8]  # a at 1 and 5, b at 1 and 5

    def num_matching(hashes: list[str]) -> int:
        index = table.schema.get_field_index("perceptual_hash")
        changed = table.set_column(index, table.schema.field(index), [hashes])
        storage.write(f"manifest/{shard}.parquet", parquet_bytes(changed))
        return survey_manifest(storage, [shard], (1.0, 5.0)).num_matching["near-duplicate"]

    assert num_matching(hashes) == 3
    assert num_matching([hashes[0], hashes[0], hashes[2], hashes[2]]) == 0
