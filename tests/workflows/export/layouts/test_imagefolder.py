"""Exports as image folders, read back by `datasets` and pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.exports import export, finished, finished_with, load, metadata_of, prompts_of, rendered_pixels
from tests.support.toy_job import make_job, manifest_of, recipe, write_prompts
from workflows.export.layouts.layout import ExportError
from workflows.job import Images

SWEEP = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)


@pytest.mark.parametrize("stored", ["files", "webdataset", "parquet"])
def test_datasets_reads_images_and_columns(tmp_path: Path, stored: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=SWEEP, images=Images(layout=stored)))

    export(job, tmp_path / "ds", "imagefolder")

    rows = load("imagefolder", tmp_path / "ds")
    manifest, pixels = {row["image_id"]: row for row in manifest_of(job)}, rendered_pixels(job)
    assert len(rows) == len(manifest) == 4 * 4
    for row in rows:
        of_manifest = manifest[row["image_id"]]
        kept = [name for name in of_manifest if name not in ("image", "codes", "latents")]
        expected = {name: of_manifest[name] for name in kept} | {
            name: str(of_manifest[name]) for name in ("seed", "row_seed")
        }
        assert {name: row[name] for name in kept} == expected
        assert row["image"].convert("RGB").tobytes() == pixels[row["image_id"]]


def test_prompt_files_with_different_columns_make_one_dataset(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": ["one"], "kind": ["x"]})
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": ["two"], "size": [3]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "ds", "imagefolder")

    rows = load("imagefolder", tmp_path / "ds")
    assert {row["prompt"]: (row["kind"], row["size"]) for row in rows} == {"one": ("x", None), "two": (None, 3)}


def test_a_shard_without_images_writes_no_file(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/1.parquet", {"prompt": pa.array([None, ""], pa.string())})
    write_prompts(tmp_path / "prompts/2.parquet", {"prompt": ["a", "b"], "kind": ["x", "y"]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    done = export(job, tmp_path / "ds", "imagefolder")

    assert [row["kind"] for row in load("imagefolder", tmp_path / "ds")] == ["x", "y"]
    assert (done.num_shards, done.written.num_files) == (2, 3)
    assert len(list((tmp_path / "ds/train").iterdir())) == 1


@pytest.mark.parametrize(
    ("column", "exported"),
    [
        ("file_name", "file_name_carried"),
        ("original_file_name", "original_file_name_carried"),
        ("image_file_name", "image_file_name_carried"),
        ("file_names", "file_names_carried"),
        ("other_file_names", "other_file_names_carried"),
        ("file_name_of_source", "file_name_of_source"),
    ],
)
def test_a_carried_column_that_datasets_takes_for_a_path_is_renamed(tmp_path: Path, column: str, exported: str) -> None:
    values = [["1.jpg"], ["2.jpg"]] if column.endswith("s") else ["1.jpg", "2.jpg"]
    job = finished_with(tmp_path, {column: values})

    export(job, tmp_path / "ds", "imagefolder")

    rows = load("imagefolder", tmp_path / "ds")
    assert [row[exported] for row in rows] == values
    assert all(row["image"].size == (64, 64) for row in rows)


def test_renamed_columns_do_not_collide(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"file_name": ["a"], "file_name_carried": ["b"], "file_name_carried_carried": ["c"]})

    export(job, tmp_path / "ds", "imagefolder")

    [row] = load("imagefolder", tmp_path / "ds")
    assert (row["file_name_carried"], row["file_name_carried_carried"]) == ("b", "c")
    assert row["file_name_carried_carried_carried"] == "a"


@pytest.mark.parametrize(
    "values", [[{"file_name": "a"}], [[{"x_file_name": "a"}]], [{"inner": {"file_names": ["a"]}}]], ids=str
)
def test_a_nested_field_that_datasets_takes_for_a_path_is_refused(tmp_path: Path, values: list[Any]) -> None:
    job = finished_with(tmp_path, {"source": pa.array(values)})

    with pytest.raises(ExportError, match=r"column `source` has a field `\w*file_names?`, .*--layout webdataset"):
        export(job, tmp_path / "ds", "imagefolder")
    assert not (tmp_path / "ds").exists()
    export(job, tmp_path / "tars", "webdataset")


@pytest.mark.parametrize("ids", [["cat", "Cat", "CAT"], ["ä", "a\u0308", "Ä"], ["a", "A", "a~2"], ["ß", "ss", "SS"]])
def test_ids_that_differ_in_case_only_keep_files_apart(tmp_path: Path, ids: list[str]) -> None:
    job = finished_with(tmp_path, {"id": ids})

    export(job, tmp_path / "ds", "imagefolder")

    names = [path.name for path in (tmp_path / "ds").rglob("*.png")]
    assert len({name.casefold() for name in names}) == 3
    pixels = rendered_pixels(job)
    for row in load("imagefolder", tmp_path / "ds"):
        assert row["image"].convert("RGB").tobytes() == pixels[row["image_id"]]


def test_an_id_in_two_prompt_files_keeps_both_images(tmp_path: Path) -> None:
    for name in "ab":
        write_prompts(tmp_path / f"prompts/{name}.parquet", {"id": ["x"], "prompt": [f"prompt {name}"]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "ds", "imagefolder")

    rows = load("imagefolder", tmp_path / "ds")
    assert sorted(row["prompt"] for row in rows) == ["prompt a", "prompt b"]
    assert len({row["image"].tobytes() for row in rows}) == 2


def test_metadata_keeps_types_that_python_lacks(tmp_path: Path) -> None:
    columns = {
        "ns": pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        "price": pa.array(["1.50", "2.25"]).cast(pa.decimal128(10, 2)),
        "time": pa.array([1, 2], pa.time64("ns")),
        "nested": pa.array([{"a": [{"b": 1}]}, None], pa.struct([("a", pa.list_(pa.struct([("b", pa.int8())])))])),
    }
    job = finished_with(tmp_path, columns)

    export(job, tmp_path / "ds", "imagefolder")

    table = metadata_of(tmp_path / "ds")
    for name, values in columns.items():
        assert table.schema.field(name).type == values.type
        assert table[name].combine_chunks() == values
    assert len(load("imagefolder", tmp_path / "ds")) == 2
