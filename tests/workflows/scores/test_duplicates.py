from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from tests.support.toy_job import make_job, manifest_of, plan_job, recipe, render, render_shard, write_prompts
from workflows.output.claim import claim_output
from workflows.output.manifest import committed_parts
from workflows.output.parts import read_part
from workflows.scores.duplicates import Groups, Likeness, score_duplicates
from workflows.scores.parts import Scorer, ScoresError, claim_scores, read_scorer, write_scores
from workflows.storage.store import Storage


def rows_of(hashes: list[int], first: int = 0) -> pa.Table:
    ids = [f"i{first + index}" for index in range(len(hashes))]
    return pa.table({"image_id": ids, "perceptual_hash": [f"{value:016x}" for value in hashes]})


def test_near_hashes_have_one_group() -> None:
    found = Groups(Likeness(max_distance=2)).add_all(rows_of([0, 0b11, 0b111, 0, 0b111]), None)

    assert found["cluster"].to_pylist() == ["i0", "i0", "i2", "i0", "i2"]
    assert found["duplicate_of"].to_pylist() == [None, "i0", None, "i0", "i2"]
    assert found["distance"].to_pylist() == [0, 2, 0, 0, 0]


def test_a_chain_of_small_differences_joins_no_different_images() -> None:
    found = Groups(Likeness(max_distance=1)).add_all(rows_of([0b0, 0b1, 0b11, 0b111]), None)

    assert found["cluster"].to_pylist() == ["i0", "i0", "i2", "i2"]


def test_an_image_joins_the_nearest_of_the_earlier_groups() -> None:
    found = Groups(Likeness(max_distance=4)).add_all(rows_of([0b0, 0b111111, 0b111110]), None)

    assert found["cluster"].to_pylist() == ["i0", "i1", "i1"]


@pytest.mark.parametrize("max_distance", [0, 1, 4, 9, 16])
def test_the_bands_find_what_a_comparison_with_every_group_finds(max_distance: int) -> None:
    chance = np.random.default_rng(max_distance)
    hashes = [int(value) for value in chance.integers(0, 2**63, 60)]
    hashes += [value ^ sum(1 << int(bit) for bit in chance.choice(64, 6, replace=False)) for value in hashes]

    found = Groups(Likeness(max_distance=max_distance)).add_all(rows_of(hashes), None)["cluster"].to_pylist()

    firsts: list[int] = []
    for index, value in enumerate(hashes):
        near = [((value ^ hashes[first]).bit_count(), first) for first in firsts]
        distance, first = min(near, default=(65, index))
        if distance > max_distance:
            firsts, first = [*firsts, index], index
        assert found[index] == f"i{first}"


def test_groups_go_on_from_part_to_part() -> None:
    groups = Groups(Likeness(max_distance=1))
    groups.add_all(rows_of([0, 0xFF]), None)

    assert groups.add_all(rows_of([0xFE, 1], first=2), None)["duplicate_of"].to_pylist() == ["i1", "i0"]


def test_ids_that_prompt_files_repeat_are_told_apart() -> None:
    groups = Groups(Likeness(max_distance=0))
    groups.add_all(rows_of([0, 1]), None)

    found = groups.add_all(rows_of([0, 2]), None)

    assert found["duplicate_of"].to_pylist() == ["i0", None]
    assert found["cluster"].to_pylist() == ["i0", "i1~2"]


def test_similar_embeddings_have_one_group_whatever_their_hashes() -> None:
    groups = Groups(Likeness(max_distance=0, embeddings_of="clip", min_similarity=0.9))
    one, other = np.eye(2, dtype=np.float32)

    found = groups.add_all(rows_of([0x0, 0xFFFF, 0xFF]), np.stack([one, other, one]))
    later = groups.add_all(rows_of([0xF0F0], first=3), (0.6 * one + 0.8 * other)[None])

    assert found["cluster"].to_pylist() == ["i0", "i1", "i0"]
    assert found["similarity"].to_pylist() == [1, 1, 1]
    assert later["cluster"].to_pylist() == ["i3"]


def test_the_duplicates_of_an_output_are_scores(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {index}" for index in range(10)]})
    job = make_job(prompts, tmp_path / "out", recipe=recipe(images_per_prompt=2))
    render(job)
    storage = Storage(job.output)

    found = score_duplicates(storage, "duplicates", Likeness(max_distance=16))
    again = score_duplicates(storage, "duplicates", Likeness(max_distance=16))

    table = pyarrow.dataset.dataset(tmp_path / "out/scores/duplicates").to_table()
    assert found == again
    assert table["image_id"].to_pylist() == [row["image_id"] for row in manifest_of(job)]
    assert found.num_duplicates == table.num_rows - table["duplicate_of"].null_count
    with pytest.raises(ScoresError, match="with the setting max_distance = 16, these have 3; give the scores another"):
        score_duplicates(storage, "duplicates", Likeness(max_distance=3))


def test_an_output_that_gained_images_needs_new_groups(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {index}" for index in range(10)]})
    job = make_job(prompts, tmp_path / "out")
    claim_output(job, {})
    for shard in list(plan_job(job).remaining_shards())[1:]:
        render_shard(job, shard)
    storage = Storage(job.output)
    score_duplicates(storage, "duplicates", Likeness())
    render(job)

    with pytest.raises(ScoresError, match=r"has gained 4 images since its duplicates .* remove that folder and run"):
        score_duplicates(storage, "duplicates", Likeness())


def test_embeddings_that_are_missing_are_named(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]}), tmp_path / "out")
    render(job)
    storage, likeness = Storage(job.output), Likeness(embeddings_of="clip")

    with pytest.raises(ScoresError, match="scorer clip has no scores for 1 parts"):
        score_duplicates(storage, "duplicates", likeness)

    clip = Scorer(name="clip", version="1")
    claim_scores(storage, clip)
    plain = Scorer(name="plain", version="1")
    for part in committed_parts(storage):
        rows = read_part(storage, part, ["image_id", "image_sha256"])
        write_scores(storage, plain, part, rows.append_column("score", pa.array([1.0] * rows.num_rows)))
    with pytest.raises(ScoresError, match=r"scorer plain wrote no embeddings; run .* with --embeddings"):
        score_duplicates(storage, "duplicates", Likeness(embeddings_of="plain"))

    for part in committed_parts(storage):
        rows = read_part(storage, part, ["image_id", "image_sha256"])
        vectors = pa.array([[1.0, 0.0]] * rows.num_rows, pa.list_(pa.float32()))
        write_scores(storage, clip, part, rows.append_column("embedding", vectors))

    assert score_duplicates(storage, "duplicates", likeness).num_duplicates == 1
    part = committed_parts(storage)[0]
    assert read_scorer(storage, "duplicates", part).settings["embeddings_of"] == dataclasses.asdict(clip)
