"""The choice of pictures for a page of a large job, and the totals it is made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import toy_job
from workflows.output.layouts import parquet_bytes
from workflows.output.manifest import committed_parts, read_table
from workflows.report.selection import MAX_PACKS, MIN_SEEDS, choose_pictures, load_pictures, spread
from workflows.report.survey import NUM_WORST, ShardCount, Survey, survey_manifest
from workflows.storage.store import Storage


def survey_of(num_shards: int, num_prompts: int, images_per_prompt: int) -> Survey:
    """A survey of equal shards, without numbers about their pictures."""
    shard = {"num_prompts": num_prompts, "num_images": num_prompts * images_per_prompt}
    return Survey(shards=[ShardCount(shard_id=f"{i:04d}", **shard) for i in range(num_shards)])


def places_of(prompts: dict[str, list[int]], prompts_per_shard: int) -> np.ndarray:
    return np.array([int(shard) * prompts_per_shard + place for shard, places in prompts.items() for place in places])


def test_a_small_job_is_shown_whole() -> None:
    choice = choose_pictures(survey_of(3, 5, 4), num_seeds=4, is_packed=False, max_images=60)
    assert choice.prompts == {"0000": [0, 1, 2, 3, 4], "0001": [0, 1, 2, 3, 4], "0002": [0, 1, 2, 3, 4]}
    assert choice.num_seeds == 4


@pytest.mark.parametrize("num_weights", [1, 3])
def test_a_large_job_is_shown_by_prompts_at_even_distances(num_weights: int) -> None:
    survey = survey_of(100, 250, 4 * num_weights)
    choice = choose_pictures(survey, num_seeds=4, is_packed=False, max_images=1200)

    places = places_of(choice.prompts, 250)

    assert len(places) == 1200 // (4 * num_weights)
    assert np.ptp(np.diff(places)) <= 1
    assert places[0] < 25_000 / len(places)
    assert choice.num_seeds == 4


def test_seeds_are_left_out_before_prompts_down_to_a_few() -> None:
    choices = [
        choose_pictures(survey_of(1, num_prompts, 1000), num_seeds=1000, is_packed=False, max_images=1000)
        for num_prompts in (10, 200, 1000)
    ]
    assert [(len(choice.prompts["0000"]), choice.num_seeds) for choice in choices] == [
        (10, 100),
        (200, 5),
        (250, MIN_SEEDS),
    ]


def test_packs_are_opened_for_a_few_shards_only() -> None:
    choice = choose_pictures(survey_of(1000, 100, 1), num_seeds=1, is_packed=True, max_images=1000)
    assert len(choice.prompts) == MAX_PACKS
    assert np.ptp(np.diff([int(shard) for shard in choice.prompts])) <= 1
    assert sum(map(len, choice.prompts.values())) == 1000


@pytest.mark.parametrize(("num", "expected"), [(1, [5]), (2, [2, 7]), (9, [0, 1, 2, 3, 5, 6, 7, 8, 9])])
def test_spread_is_even(num: int, expected: list[int]) -> None:
    assert list(spread(range(10), num)) == expected


def test_flagged_pictures_are_shown_beside_the_sample(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {i}" for i in range(300)]})
    job = toy_job.make_job(path, tmp_path / "out", shard_rows=100)
    toy_job.render(job)
    storage = Storage(job.output)
    survey = survey_manifest(storage, committed_parts(storage), (5.0,))

    choice = choose_pictures(survey, num_seeds=1, is_packed=False, max_images=10)
    pictures = load_pictures(storage, choice, survey.lookalikes)

    sampled = [picture.is_sampled for picture in pictures]
    assert sampled == [True] * 10 + [False] * (len(pictures) - 10)
    shown = {picture.row["image_id"] for picture in pictures}
    lowest = sorted((row["contrast"], row["image_id"]) for row in toy_job.manifest_of(job))
    blank = [image_id for contrast, image_id in lowest if contrast < 0.02]
    assert survey.flagged["blank"] == len(blank) > 10
    assert set(blank[:NUM_WORST]) <= shown


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
    assert (many.num_images, many.num_prompts, many.flagged, many.sizes) == (40, 40, one.flagged, one.sizes)
    assert list(one.weights) == list(many.weights) == [2.0, 5.0]
    for weight, facts in one.weights.items():
        assert facts.num_images == many.weights[weight].num_images == 20
        assert all((facts.histograms[name] == many.weights[weight].histograms[name]).all() for name in facts.histograms)


def test_a_thousand_weights_do_not_become_a_thousand_histograms(tmp_path: Path) -> None:
    weights = [1 + i / 100 for i in range(100)]
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"] * 100, "cfg_weight": weights})
    job = toy_job.make_job(path, tmp_path / "out", shard_rows=100)
    toy_job.render(job)
    storage = Storage(job.output)
    survey = survey_manifest(storage, committed_parts(storage), (5.0,))
    assert list(survey.weights) == [*weights[:11], 5.0, None]
    assert survey.weights[None].num_images == 100 - 11


def test_images_of_one_seed_at_two_weights_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    job = toy_job.make_job(path, tmp_path / "out", recipe=toy_job.recipe(cfg_weights=(1.0, 5.0)))
    toy_job.render(job)
    storage = Storage(job.output)
    [shard] = committed_parts(storage)
    table = read_table(storage, f"manifest/{shard}.parquet")
    hashes = ["0f" * 8, "0f" * 8, "33" * 8, "0f" * 8]  # a at 1 and 5, b at 1 and 5

    def flagged(hashes: list[str]) -> int:
        place = table.schema.get_field_index("perceptual_hash")
        changed = table.set_column(place, table.schema.field(place), [hashes])
        storage.write(f"manifest/{shard}.parquet", parquet_bytes(changed))
        return survey_manifest(storage, [shard], (1.0, 5.0)).flagged["near-duplicate"]

    assert flagged(hashes) == 3
    assert flagged([hashes[0], hashes[0], hashes[2], hashes[2]]) == 0
