"""Exports for GenEval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from tests.support.exports import export, finished, finished_apart, finished_with, prompts_of
from tests.support.toy_job import make_job, recipe, write_prompts
from workflows.export.layouts.layout import ExportError
from workflows.job import Images

FOUR = recipe(images_per_prompt=4)


def geneval_columns(num: int) -> dict[str, Any]:
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": n}], "prompt": f"p{n}"} for n in range(num)
    ]
    return {
        "id": [f"geneval-{n:05d}" for n in range(num)],
        "prompt": [line["prompt"] for line in lines],
        "metadata": [json.dumps(line) for line in lines],
    }


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_each_prompt_gets_a_numbered_folder_of_png_samples(tmp_path: Path, image_format: str) -> None:
    images = Images(layout="files", format=image_format)
    job = finished_with(tmp_path, geneval_columns(5), recipe=FOUR, images=images)

    export(job, tmp_path / "ge", "geneval")

    folders = sorted(path.name for path in (tmp_path / "ge").iterdir() if path.name.isdigit())
    assert folders == ["00000", "00001", "00002", "00003", "00004"]
    assert json.loads((tmp_path / "ge/00003/metadata.jsonl").read_text())["include"][0]["count"] == 3
    samples = sorted((tmp_path / "ge/00003/samples").iterdir())
    assert [path.name for path in samples] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert all(Image.open(path).format == "PNG" for path in samples)
    assert len({path.read_bytes() for path in samples}) == 4


def test_each_weight_of_a_sweep_gets_its_own_folder(tmp_path: Path) -> None:
    swept = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=4)
    job = finished_with(tmp_path, geneval_columns(2), recipe=swept)

    done = export(job, tmp_path / "ge", "geneval")

    assert (tmp_path / "ge/w7.5/00001/samples/0003.png").exists()
    assert (done.written.num_images, done.written.num_files, done.written.num_prompts) == (16, 20, 2)


def test_images_of_a_prompt_that_are_written_apart_share_its_folder(tmp_path: Path) -> None:
    """64 images are written at once, and some of them are the first ones of a prompt whose others follow."""
    job = finished_with(tmp_path, geneval_columns(24), recipe=recipe(images_per_prompt=3), shard_rows=24)

    done = export(job, tmp_path / "ge", "geneval")

    assert (done.written.num_images, done.written.num_files, done.written.num_prompts) == (72, 24 + 72, 24)


def test_prompts_without_metadata_are_refused(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))

    with pytest.raises(ExportError, match=r"geneval: the prompts need a column `metadata`"):
        export(job, tmp_path / "ge", "geneval")
    assert not (tmp_path / "ge").exists()


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        ({"counting": {}, "colors": {}}, "00000"),
        ({"a": {"id": ["one-7"]}, "b": {"id": ["two-007"]}}, "00007"),
        ({"a": {"id": ["x1", "y1"]}}, "00001"),
    ],
    ids=["default ids", "leading zeros", "one file"],
)
def test_prompts_whose_ids_end_in_one_number_are_refused(
    tmp_path: Path, files: dict[str, dict[str, list[str]]], folder: str
) -> None:
    for name, columns in files.items():
        num = len(columns.get("id", [0]))
        metadata = {"prompt": [name] * num, "metadata": ['{"tag": "x"}'] * num}
        write_prompts(tmp_path / f"prompts/{name}.parquet", {**metadata, **columns})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    with pytest.raises(
        ExportError, match=rf"prompts '.*' \(shard .*\) and '.*' \(shard .*\) would share the file {folder}.*numbers"
    ):
        export(job, tmp_path / "ge", "geneval")
    assert not (tmp_path / "ge").exists()


@pytest.mark.parametrize("metadata", ["", "not json", "[1]", "NaN or so", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_metadata_that_is_not_a_json_object_is_refused(tmp_path: Path, metadata: str) -> None:
    job = finished_with(tmp_path, {"id": ["p1"], "metadata": [metadata]})

    with pytest.raises(ExportError, match=r"`metadata` must hold a JSON object, got .{1,80} for prompt 'p1'"):
        export(job, tmp_path / "ge", "geneval")


@pytest.mark.parametrize("values", [pa.array([{"tag": "x"}]), pa.array([1]), pa.array([b"{}"])], ids=str)
def test_metadata_of_another_type_is_refused(tmp_path: Path, values: pa.Array) -> None:
    job = finished_with(tmp_path, {"id": ["p1"], "metadata": values})

    with pytest.raises(ExportError, match=r"`metadata` must hold text"):
        export(job, tmp_path / "ge", "geneval")


def test_metadata_becomes_one_line_and_keeps_its_text(tmp_path: Path) -> None:
    text = '{\r\n  "a": 1.10,\n  "b": "\u2028 and \\n", "c": 123456789012345678901234567890\n}\n'
    job = finished_with(tmp_path, {"id": ["p1"], "metadata": pa.array([text]).dictionary_encode()})

    export(job, tmp_path / "ge", "geneval")

    written = (tmp_path / "ge/00001/metadata.jsonl").read_bytes().decode()
    assert written.count("\n") == 1
    assert '"a": 1.10' in written
    assert json.loads(written) == json.loads(text)


def test_columns_that_geneval_does_not_read_do_not_matter(tmp_path: Path) -> None:
    job = finished_apart(tmp_path, pa.array([1]), pa.array(["text"]))

    assert export(job, tmp_path / "ge", "geneval").written.num_files == 4
