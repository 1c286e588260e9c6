"""Exports as WebDataset tars, read back by `webdataset` and `datasets`."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.exports import export, finished, finished_with, load, load_splits, prompts_of
from tests.support.toy_job import make_job, manifest_of, recipe, write_prompts


def samples_of(folder: Path) -> list[dict[str, Any]]:
    import webdataset

    paths = sorted(str(path) for path in (folder / "data").glob("*.tar"))
    return list(webdataset.WebDataset(paths, shardshuffle=False))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The JSON of each sample, read by a parser that accepts no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(sample["json"], parse_constant=refuse) for sample in samples_of(folder)]


def test_webdataset_and_datasets_read_samples(tmp_path: Path) -> None:
    sweep = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=sweep))

    export(job, tmp_path / "ds", "webdataset")

    manifest = {row["image_id"]: row for row in manifest_of(job)}
    samples = samples_of(tmp_path / "ds")
    assert len(samples) == len(manifest) == 16
    for sample in samples:
        row = json.loads(sample["json"])
        assert hashlib.sha256(sample["png"]).hexdigest() == manifest[row["image_id"]]["image_sha256"]
        assert sample["txt"].decode() == manifest[row["image_id"]]["prompt"] == row["prompt"]
        assert (row["kind"], row["seed"]) == ("a", str(manifest[row["image_id"]]["seed"]))

    rows = load("webdataset", tmp_path / "ds")
    assert {row["json"]["image_id"] for row in rows} == set(manifest)
    assert rows[0]["png"].size == (64, 64)


def test_a_shard_without_images_writes_no_tar(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/1.parquet", {"prompt": pa.array([None, ""], pa.string())})
    write_prompts(tmp_path / "prompts/2.parquet", {"prompt": ["a", "b"]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    done = export(job, tmp_path / "ds", "webdataset")

    [tar] = (tmp_path / "ds/data").iterdir()
    with tarfile.open(tar) as opened:
        assert len(opened.getnames()) == 6
    assert (len(load("webdataset", tmp_path / "ds")), done.written.num_files) == (2, 1)


DAY = 86_400
CARRIED: dict[str, tuple[pa.Array, Any]] = {
    "year 10000": (pa.array([253402300799], pa.timestamp("s", "Europe/Berlin")), "9999-12-31 23:59:59.000Z"),
    "before the year 1": (pa.array([-62135596800 - DAY], pa.timestamp("s")), "0000-12-31 00:00:00.000"),
    "date": (pa.array([2932897], pa.int32()).cast(pa.date32()), "10000-01-01"),
    "zone": (pa.array([0], pa.timestamp("s", "Mars/Phobos")), "1970-01-01 00:00:00.000Z"),
    "duration": (pa.array([2**62], pa.duration("s")), str(2**62)),
    "time": (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    "decimal": (pa.array(["1.50"]).cast(pa.decimal128(10, 2)), "1.50"),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1)),
    "list of uint64": (pa.array([[2**64 - 1]], pa.list_(pa.uint64())), [str(2**64 - 1)]),
    "list of dates": (pa.array([[2932897]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())), ["10000-01-01"]),
    "struct": (pa.array([{"a": {"b": 2**64 - 1}}], pa.struct([("a", pa.struct([("b", pa.uint64())]))])),
               {"a": {"b": str(2**64 - 1)}}),
    "map": (pa.array([[("k", 2**64 - 1)]], pa.map_(pa.string(), pa.uint64())), [{"key": "k", "value": str(2**64 - 1)}]),
    "dictionary": (pa.array(["x"]).dictionary_encode(), "x"),
    "float16": (pa.array([1.5]).cast(pa.float16()), 1.5),
    "nan": (pa.array([float("nan")]), "nan"),
    "infinity": (pa.array([[1.5, float("-inf")]]), ["1.5", "-inf"]),
    "bytes": (pa.array([b"\xff\x00"]), "/wA="),
    "nested bytes": (pa.array([[b"abc", None]]), ["YWJj", None]),
    "null": (pa.nulls(1), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIED)
def test_a_carried_value_that_json_lacks_becomes_text(tmp_path: Path, name: str) -> None:
    values, expected = CARRIED[name]
    job = finished_with(tmp_path, {"value": values})

    export(job, tmp_path / "ds", "webdataset")

    [row] = rows_of(tmp_path / "ds")
    assert row["value"] == expected
    assert load("webdataset", tmp_path / "ds")[0]["json"]["value"] == expected


def test_datasets_reads_a_column_whose_first_samples_have_no_text(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p/1.parquet", {"prompt": ["a", "b"], "tag": pa.nulls(2)})
    write_prompts(tmp_path / "p/2.parquet", {"prompt": ["c", "d"], "tag": ["x", None]})
    job = finished(make_job(tmp_path / "p", tmp_path / "out"))

    export(job, tmp_path / "ds", "webdataset")

    assert [row["json"]["tag"] for row in load("webdataset", tmp_path / "ds")] == ["", "", "x", ""]


def test_datasets_takes_the_types_of_the_card_where_the_first_values_are_null(tmp_path: Path) -> None:
    values = [1, 0.5, True, ["x"], [], [1.5], {"a": 1, "b": ["y"]}, [{"a": [{"c": 2}]}], {"a": None}, b"x"]
    columns = {f"value{number}": [None] * 8 + [value] for number, value in enumerate(values)}
    job = finished_with(tmp_path, {"id": [f"p{n}" for n in range(9)], **columns})

    export(job, tmp_path / "ds", "webdataset")

    rows = load_splits(tmp_path / "ds")["train"]
    values[-1] = base64.b64encode(b"x").decode()
    for name, value in zip(columns, values, strict=True):
        assert [row[name] for row in rows["json"]] == [None] * 8 + [value]
    assert rows[8]["png"].size == (64, 64)
