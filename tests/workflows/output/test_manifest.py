"""The manifest and the rejected rows of a shard: columns, values, and columns carried from the prompts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.batcher import Batcher
from actors.request import ImageRequest, RenderedImage
from actors.toy import ToyEngine
from tests.support.toy_job import (
    FOUR_ROWS,
    faults_of,
    make_job,
    manifest_of,
    plan_job,
    recipe,
    rejected_of,
    render,
    render_shard,
    rows_of,
    write_prompts,
)
from workflows.job import Images, RenderJob
from workflows.output.commit import commit_shard
from workflows.output.images import write_batch
from workflows.output.layouts import LAYOUTS, read_image
from workflows.output.manifest import committed_parts
from workflows.storage.store import Storage


class LatentEngine(ToyEngine):
    """An engine whose images have latents, as JanusFlow's have."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage]:
        latents = np.zeros((4, 8, 8), np.float32)
        return [dataclasses.replace(image, latents=latents, codes=None) for image in super().render(requests)]


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return make_job(write_prompts(tmp_path / "prompts.parquet", FOUR_ROWS), tmp_path / "out")


# ---- the manifest ----------------------------------------------------------------------------------------------------

TEXT, NUMBER = pa.string(), pa.float64()
COLUMNS = [
    ("image_id", TEXT, "needed"),
    ("prompt_id", TEXT, "needed"),
    ("image_index", pa.int32(), "needed"),
    ("prompt", TEXT, "needed"),
    ("negative_prompt", TEXT, "may be null"),
    ("seed", pa.uint64(), "needed"),
    ("row_seed", pa.uint64(), "may be null"),
    ("cfg_weight", NUMBER, "needed"),
    ("cfg_interval", pa.list_(NUMBER), "may be null"),
    ("temperature", NUMBER, "may be null"),
    ("num_inference_steps", pa.int32(), "may be null"),
    ("solver", TEXT, "may be null"),
    ("match_reference_demo", pa.bool_(), "may be null"),
    ("model", TEXT, "needed"),
    ("model_revision", TEXT, "may be null"),
    ("weights_sha256", TEXT, "needed"),
    ("vae", TEXT, "may be null"),
    ("vae_revision", TEXT, "may be null"),
    ("vae_sha256", TEXT, "may be null"),
    ("family", TEXT, "needed"),
    ("prompt_format", TEXT, "may be null"),
    ("prompt_template", TEXT, "may be null"),
    ("protocol", TEXT, "may be null"),
    ("reasoning", TEXT, "may be null"),
    ("adapters", TEXT, "may be null"),
    ("dtype", TEXT, "needed"),
    ("kv_cache", TEXT, "may be null"),
    ("sampler", TEXT, "needed"),
    ("image", TEXT, "needed"),
    ("width", pa.int32(), "needed"),
    ("height", pa.int32(), "needed"),
    ("image_sha256", TEXT, "needed"),
    ("mean_saturation", pa.float32(), "needed"),
    ("contrast", pa.float32(), "needed"),
    ("clipped_fraction", pa.float32(), "needed"),
    ("entropy", pa.float32(), "needed"),
    ("perceptual_hash", TEXT, "needed"),
    ("codes", pa.list_(pa.int32()), "may be null"),
    ("latents", TEXT, "may be null"),
    ("device", TEXT, "needed"),
    ("created_at", pa.timestamp("us", tz="UTC"), "needed"),
]


def test_a_manifest_part_has_these_columns_and_then_the_carried_ones(job: RenderJob) -> None:
    render(job)

    (name,) = Storage(job.output).names("manifest")
    schema = pq.read_schema(f"{job.output}/manifest/{name}")

    assert [(f.name, f.type, "may be null" if f.nullable else "needed") for f in schema] == [
        *COLUMNS,
        ("challenge", TEXT, "may be null"),
    ]


def test_a_manifest_row_says_how_its_image_was_made(tmp_path: Path) -> None:
    columns = {"prompt": ["a fox"], "id": ["fox"], "negative_prompt": ["blur"], "seed": [7], "temperature": [0.5]}
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns),
        tmp_path / "out",
        recipe=recipe(images_per_prompt=2, cfg_weights=(1.0, 2.5), cfg_interval=(0.1, 0.9)),
    )
    (receipt,) = render(job)

    row = manifest_of(job)[3]
    data = read_image(Storage(job.output), row["image"])

    assert receipt.num_images == 4
    expected = {
        "image_id": "fox_1_w2.5",
        "prompt_id": "fox",
        "image_index": 1,
        "prompt": "a fox",
        "negative_prompt": "blur",
        "seed": 14606064860418693034,  # printf 'janus-batch seed 1\0007\0001\000fox' | sha256sum, little-endian
        "row_seed": 7,
        "cfg_weight": 2.5,
        "cfg_interval": [0.1, 0.9],
        "temperature": 0.5,
        "num_inference_steps": None,
        "solver": None,
        "match_reference_demo": False,
        "model": "toy",
        "model_revision": None,
        "weights_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "vae": None,
        "vae_revision": None,
        "vae_sha256": None,
        "family": "toy",
        "prompt_format": None,
        "dtype": "float32",
        "sampler": "toy-1",
        "image": f"images/{receipt.shard_id}/fox_1_w2.5.png",
        "width": 64,
        "height": 64,
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "latents": None,
        "device": "cpu",
    }
    assert {name: row[name] for name in expected} == expected
    assert data.startswith(b"\x89PNG")
    assert len(row["codes"]) == 16
    assert row["created_at"].tzinfo is not None


def test_rows_are_in_the_order_of_the_prompts_for_any_batches(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"p{n}" for n in range(10)]})
    job = make_job(path, tmp_path / "out", shard_rows=10)
    (rows,) = rows_of(job)
    batches = list(Batcher(ToyEngine(job.recipe), batch_size=3).render(rows.requests))

    commit_shard(job, rows, *(write_batch(job, rows.shard.id, "cpu", batch) for batch in reversed(batches)))

    assert [row["prompt"] for row in manifest_of(job)] == [f"p{n}" for n in range(10)]


def test_carried_columns_stay_with_their_rows(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a", "", "toy:nan", "d"],
        "tags": [["x"], [], None, ["y", "z"]],
        "score": pa.array([1.5, 2.5, 3.5, None], pa.float32()),
        "kind": pa.array(["k", "l", "m", "n"]).dictionary_encode(),
    }
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out", recipe=recipe(images_per_prompt=2)
    )
    render(job)

    carried = [(row["prompt"], row["tags"], row["score"], row["kind"]) for row in manifest_of(job)]

    assert carried == [("a", ["x"], 1.5, "k")] * 2 + [("d", ["y", "z"], None, "n")] * 2


def test_a_carried_column_with_a_name_of_ours_is_renamed(tmp_path: Path) -> None:
    columns = {
        "image": ["theirs"],
        "source_image": ["theirs too"],
        "prompt": ["a"],
        "width": [7],
        "source_source_image": ["and this"],
    }
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out")
    render(job)

    (row,) = manifest_of(job)

    assert row["image"].startswith("images/")
    assert (row["width"], row["source_width"]) == (64, 7)
    assert [name for name in row if "source" in name and row[name] == "theirs"] == ["source_source_source_image"]
    assert (row["source_image"], row["source_source_image"]) == ("theirs too", "and this")


def test_latents_are_kept_if_the_job_asks_and_the_engine_has_them(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"], "id": ["x"]})
    for layout in LAYOUTS:
        job = make_job(path, tmp_path / layout, images=Images(layout=layout, keep_latents=True))
        (shard,) = plan_job(job).remaining_shards()
        render_shard(job, shard, LatentEngine(job.recipe))

        (row,) = manifest_of(job)
        assert row["codes"] is None
        assert row["latents"].endswith("x_0.npy")
        assert read_image(Storage(job.output), row["latents"]).startswith(b"\x93NUMPY")
        assert faults_of(job) == []


# ---- rejected rows ---------------------------------------------------------------------------------------------------


def test_rejected_rows_are_stored_apart_with_their_reasons(job: RenderJob) -> None:
    (receipt,) = render(job)

    assert [row["prompt_id"] for row in manifest_of(job)] == ["red", "blue"]
    assert rejected_of(job) == [
        {
            "row": 1,
            "prompt_id": "none",
            "image_id": None,
            "num_images": 1,
            "reason": "prompt is null",
            "prompt": None,
            "source": f"file://{job.prompts}",
        },
        {
            "row": 2,
            "prompt_id": "nan",
            "image_id": "nan_0",
            "num_images": 1,
            "reason": "the model's numbers became NaN",
            "prompt": "toy:nan",
            "source": f"file://{job.prompts}",
        },
    ]
    assert (receipt.num_images, receipt.num_rejected, receipt.is_first) == (2, 2, True)


def test_a_prompt_longer_than_the_models_context_is_rejected_image_by_image(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "x" * 2001, "c"], "id": ["a", "b", "c"]})
    job = make_job(path, tmp_path / "out", recipe=recipe(images_per_prompt=2))

    (receipt,) = render(job)

    assert (receipt.num_images, receipt.num_rejected) == (4, 2)
    assert [(row["image_id"], row["row"], row["num_images"]) for row in rejected_of(job)] == [
        ("b_0", 1, 1),
        ("b_1", 1, 1),
    ]
    assert {row["reason"] for row in rejected_of(job)} == {
        "prompt of 2001 characters is longer than the toy engine's 2000"
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_of_rejected_rows_only_is_committed_too(tmp_path: Path, layout: str) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": [None, "", "toy:nan"], "n": [1, 2, 3]})
    job = make_job(path, tmp_path / "out", images=Images(layout=layout))

    (receipt,) = render(job)

    assert (receipt.num_images, receipt.num_rejected) == (0, 3)
    assert plan_job(job).num_shards_remaining == 0
    assert faults_of(job) == []


def test_a_shard_without_rejected_rows_has_no_rejected_file(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"]}), tmp_path / "out")
    render(job)

    assert Storage(job.output).names("rejected") == []


def test_committed_parts_are_the_files_of_the_manifest(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]}), tmp_path / "out")
    storage = Storage(job.output)
    assert committed_parts(storage) == []

    (receipt,) = render(job)
    storage.write(f"manifest/{receipt.shard_id}x.parquet.1234abcd.draft", b"of a process that was killed")
    storage.write("manifest/notes.parquet", b"of another program")

    assert committed_parts(storage) == [receipt.shard_id]
