"""Exports as Lance datasets, read back by lance."""

from __future__ import annotations

import sys
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from tests.support.exports import (
    export,
    finished,
    finished_with,
    pixels_of,
    prompts_of,
    rendered_pixels,
    score,
    score_of,
)
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render_shard
from workflows.export.layouts.lance import _check_types
from workflows.export.layouts.layout import ExportError
from workflows.export.rules import Rules, read_splits
from workflows.job import RenderJob
from workflows.output.claim import claim_output
from workflows.scores.parts import Scorer

SWEEP = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)
CLIP = Scorer(name="clip", version="1")


def swept(folder: Path) -> RenderJob:
    job = finished(make_job(prompts_of(folder, 20), folder / "out", recipe=SWEEP))
    score(job, CLIP, similarity=score_of)
    return job


def test_lance_reads_images_and_columns_in_the_order_of_the_shards(tmp_path: Path) -> None:
    job = swept(tmp_path)

    export(job, tmp_path / "ds", "lance")

    table, manifest, pixels = (
        lance.dataset(tmp_path / "ds/data/train.lance").to_table(),
        manifest_of(job),
        rendered_pixels(job),
    )
    assert table["image_id"].to_pylist() == [row["image_id"] for row in manifest]
    assert table["clip"].to_pylist() == [score_of(row["image_id"]) for row in manifest]
    for image_id, data in zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True):
        assert pixels_of(data) == pixels[image_id]


def test_splits_are_datasets_of_their_own(tmp_path: Path) -> None:
    done = export(swept(tmp_path), tmp_path / "ds", "lance", rules=Rules(splits=read_splits("train=0.6,test=0.4")))

    for split, written in done.splits.items():
        assert lance.dataset(tmp_path / f"ds/data/{split}.lance").count_rows() == written.num_images > 0


def test_pairs_hold_both_images(tmp_path: Path) -> None:
    job = swept(tmp_path)

    export(job, tmp_path / "ds", "lance", rules=Rules(pairs="clip"))

    pixels = rendered_pixels(job)
    for row in lance.dataset(tmp_path / "ds/data/train.lance").to_table().to_pylist():
        for side in ("chosen", "rejected"):
            assert pixels_of(row[side]) == pixels[row[f"{side}_image_id"]]
        assert row["score_chosen"] > row["score_rejected"]


def test_an_interrupted_export_resumes_and_an_unchanged_one_writes_nothing(tmp_path: Path) -> None:
    job = swept(tmp_path)

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(job, tmp_path / "ds", "lance", on_shard=stop)
    assert export(job, tmp_path / "ds", "lance").num_shards_before == 3
    whole = bytes_of(tmp_path / "ds")
    export(job, tmp_path / "ds", "lance")

    assert bytes_of(tmp_path / "ds") == whole
    assert lance.dataset(tmp_path / "ds/data/train.lance").count_rows() == len(manifest_of(job))


def test_images_that_the_output_gained_are_added_and_old_files_go(tmp_path: Path) -> None:
    job = make_job(prompts_of(tmp_path), tmp_path / "out")
    claim_output(job, {})
    render_shard(job, next(plan_job(job).remaining_shards()))
    export(job, tmp_path / "ds", "lance", allow_incomplete=True, rules=Rules(sample=2))
    finished(job)

    done = export(job, tmp_path / "ds", "lance", rules=Rules(sample=2))

    dataset = lance.dataset(tmp_path / "ds/data/train.lance")
    assert (dataset.count_rows(), dataset.version) == (2, 1)
    assert len(list((tmp_path / "ds/data/train.lance/data").iterdir())) == done.written.num_files


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})
    _check_types.cache_clear()
    monkeypatch.setitem(sys.modules, "lance", None)

    with pytest.raises(
        ExportError, match=r'layout lance needs the package pylance: pip install "janus-batch\[lance\]"'
    ):
        export(job, tmp_path / "ds", "lance")
    assert not (tmp_path / "ds").exists()


def test_a_destination_that_is_no_local_disk_is_refused(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})

    with pytest.raises(ExportError, match="layout lance is written to a local disk, got memory://ds"):
        export(job, "memory://ds", "lance")


@pytest.mark.parametrize(
    "kind",
    [
        pa.month_day_nano_interval(),
        pa.list_(pa.string(), 2),
        pa.struct([("a", pa.list_(pa.list_(pa.int8()), 2))]),
    ],
    ids=str,
)
def test_a_type_that_lance_does_not_hold_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(ExportError, match=r"layout lance: column `x` has the type .*; use --layout parquet"):
        _check_types(pa.schema([("x", kind)]))


def test_the_check_of_types_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _check_types.cache_clear()

    _check_types(pa.schema([("a name with spaces", pa.int64()), ("other", pa.string())]))

    assert list(tmp_path.iterdir()) == []


VALUES = {
    "uint64": pa.array([2**64 - 1], pa.uint64()),
    "null": pa.nulls(1),
    "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "vector": pa.array([[1.5, 2.5]], pa.list_(pa.float32(), 2)),
    "decimal": pa.array(["1.50"]).cast(pa.decimal256(50, 2)),
    "nested": pa.array([[{"a": [b"x"]}]]),
    "list": pa.array([{"a": [1, None], "b": {"c": "x"}}]),
    "zone": pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
}


@pytest.mark.parametrize("name", VALUES)
def test_carried_columns_of_other_types_are_read_back(tmp_path: Path, name: str) -> None:
    export(finished_with(tmp_path, {"value": pa.concat_arrays([VALUES[name]] * 3)}), tmp_path / "ds", "lance")

    values = lance.dataset(tmp_path / "ds/data/train.lance").to_table(["value"])["value"].to_pylist()
    expected = VALUES[name].to_pylist()[0]
    assert values == [{"uint64": str(expected), "map": [{"key": "k", "value": 1}]}.get(name, expected)] * 3
