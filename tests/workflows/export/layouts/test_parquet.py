"""Exports as Parquet files, read back by `datasets` and pyarrow: images and pairs of images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets.features.features import Features
from PIL import Image

from tests.support.exports import (
    export,
    finished,
    finished_with,
    load_splits,
    pixels_of,
    prompts_of,
    rendered_pixels,
    score,
    score_of,
)
from tests.support.toy_job import make_job, manifest_of, recipe
from workflows.export.layouts import parquet
from workflows.export.rules import Rules
from workflows.job import Images, RenderJob
from workflows.scores.parts import Scorer

SWEEP = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)
CLIP = Scorer(name="clip", version="1")


def files_in(folder: Path) -> list[Path]:
    return sorted((folder / "data").rglob("*.parquet"))


def swept(folder: Path) -> RenderJob:
    job = finished(make_job(prompts_of(folder), folder / "out", recipe=SWEEP))
    score(job, CLIP, similarity=score_of)
    return job


@pytest.mark.parametrize("stored", ["files", "webdataset", "parquet"])
def test_datasets_reads_images_and_columns_without_an_option(tmp_path: Path, stored: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=SWEEP, images=Images(layout=stored)))

    export(job, tmp_path / "ds", "parquet")

    rows = load_splits(tmp_path / "ds")["train"]
    manifest, pixels = {row["image_id"]: row for row in manifest_of(job)}, rendered_pixels(job)
    assert isinstance(rows.features["image"], ImageFeature)
    assert len(rows) == len(manifest) == 16
    for row in rows:
        of_manifest = manifest[row["image_id"]]
        kept = [name for name in of_manifest if name not in ("image", "codes", "latents", "seed", "row_seed")]
        assert {name: row[name] for name in kept} == {name: of_manifest[name] for name in kept}
        assert row["image"].convert("RGB").tobytes() == pixels[row["image_id"]]
        assert row["seed"] == str(of_manifest["seed"])


def test_a_viewer_finds_the_image_feature_a_page_index_and_bytes_as_they_are(tmp_path: Path) -> None:
    export(finished_with(tmp_path, {"id": ["a", "b"]}), tmp_path / "ds", "parquet")

    [file] = files_in(tmp_path / "ds")
    footer = pq.read_metadata(file)
    features = Features.from_arrow_schema(pq.read_schema(file))
    assert features["image"] == ImageFeature()
    assert json.loads(footer.metadata[b"huggingface"])["info"]["features"] == {"image": {"_type": "Image"}}
    columns = [footer.row_group(0).column(index) for index in range(footer.num_columns)]
    assert all(column.has_offset_index and column.has_column_index for column in columns)
    compressions = {column.path_in_schema: column.compression for column in columns}
    assert (compressions["image.bytes"], compressions["prompt"]) == ("UNCOMPRESSED", "ZSTD")


def test_files_and_row_groups_are_cut_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2_500)  # two toy images or so
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 9_000)
    job = finished_with(tmp_path, {"id": [f"p{n}" for n in range(12)]}, shard_rows=12)

    done = export(job, tmp_path / "ds", "parquet")

    files = files_in(tmp_path / "ds")
    groups = [pq.read_metadata(file).num_row_groups for file in files]
    assert (len(files), done.written.num_files) == (done.written.num_files, len(files))
    assert len(files) > 1
    assert max(groups) > 1
    ids = [image_id for file in files for image_id in pq.read_table(file)["image_id"].to_pylist()]
    assert ids == [f"p{n}_0" for n in range(12)]


@pytest.mark.parametrize("values", [pa.array([2**64 - 1], pa.uint64()), pa.array([None], pa.null()),
                                    pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
                                    pa.array([[{"a": [b"x"]}]]), pa.array([10**6], pa.duration("s"))])  # fmt: skip
def test_carried_columns_of_any_type_are_read_by_datasets(tmp_path: Path, values: pa.Array) -> None:
    export(finished_with(tmp_path, {"value": values}), tmp_path / "ds", "parquet")

    assert len(load_splits(tmp_path / "ds")["train"]) == 1


# ---- pairs ---------------------------------------------------------------------------------------------------------


def best_and_worst(job: RenderJob) -> dict[str, tuple[str, str]]:
    by_prompt: dict[str, list[str]] = {}
    for row in manifest_of(job):
        by_prompt.setdefault(row["prompt_id"], []).append(row["image_id"])
    return {name: (max(ids, key=score_of), min(ids, key=score_of)) for name, ids in by_prompt.items()}


def test_pairs_have_the_columns_of_a_preference_dataset(tmp_path: Path) -> None:
    job = swept(tmp_path)

    done = export(job, tmp_path / "ds", "parquet", rules=Rules(pairs="clip"))

    rows, pixels = load_splits(tmp_path / "ds")["train"], rendered_pixels(job)
    manifest = {row["image_id"]: row for row in manifest_of(job)}
    assert (len(rows), done.written.num_pairs, done.removed) == (4, 4, {"--pairs clip": 8})
    for row in rows:
        chosen, rejected = best_and_worst(job)[row["prompt_id"]]
        assert (row["chosen_image_id"], row["rejected_image_id"]) == (chosen, rejected)
        assert (row["score_chosen"], row["score_rejected"]) == (score_of(chosen), score_of(rejected))
        for side, image_id in (("chosen", chosen), ("rejected", rejected)):
            assert row[side].convert("RGB").tobytes() == pixels[image_id]
            assert row[f"{side}_cfg_weight"] == manifest[image_id]["cfg_weight"]
            assert row[f"{side}_seed"] == str(manifest[image_id]["seed"])
        assert (row["prompt"], row["kind"]) == (manifest[chosen]["prompt"], "a")


def test_pairs_in_the_columns_of_pick_a_pic(tmp_path: Path) -> None:
    job = swept(tmp_path)

    export(job, tmp_path / "ds", "pickapic", rules=Rules(pairs="clip"))

    rows, pixels = load_splits(tmp_path / "ds")["train"], rendered_pixels(job)
    assert len(rows) == 4
    for row in rows:
        images = [preferred_first(row)[side] for side in (0, 1)]
        expected = best_and_worst(job)[row["prompt_id"]]
        assert [pixels_of(image) for image in images] == [pixels[image_id] for image_id in expected]
        assert row["best_image_uid"] == expected[0]
        assert {row["image_0_uid"], row["image_1_uid"]} == set(expected)
        assert (row["label_0"] > row["label_1"]) == (row["score_0"] > row["score_1"])
        assert row["score_0"] == row["clip_0"]
        assert row["caption"].startswith("prompt ")


def preferred_first(row: dict[str, Any]) -> list[bytes]:
    """The images of a row as the loader of Diffusion-DPO orders them."""
    images = [row["jpg_0"], row["jpg_1"]]
    assert all(Image.open(io.BytesIO(data)).size == (64, 64) for data in images)
    return images[::-1] if row["label_0"] == 0 else images


def test_prompts_whose_images_are_equal_or_alone_make_no_pair(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]}, recipe=recipe(images_per_prompt=3))
    score(
        job,
        CLIP,
        similarity=lambda image_id: 0.5 if image_id[0] == "a" else {"0": 0.1, "1": None, "2": 0.2}[image_id[-1]],
    )

    done = export(job, tmp_path / "ds", "parquet", rules=Rules(pairs="clip"))

    [row] = load_splits(tmp_path / "ds")["train"]
    assert (row["chosen_image_id"], row["rejected_image_id"]) == ("b_2", "b_0")
    assert done.removed == {"--pairs clip": 4}


def test_a_sample_of_pairs_counts_pairs(tmp_path: Path) -> None:
    done = export(swept(tmp_path), tmp_path / "ds", "parquet", rules=Rules(pairs="clip", sample=2))

    assert (done.written.num_pairs, done.written.num_images) == (2, 4)
    assert done.removed == {"--pairs clip": 8, "--sample 2 --seed 0": 4}


def test_layout_pickapic_holds_nothing_but_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout pickapic holds pairs of images; add --pairs COLUMN"):
        export(swept(tmp_path), tmp_path / "ds", "pickapic")
