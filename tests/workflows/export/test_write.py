"""An export as a whole: what it refuses, how it resumes, and that it ships nothing wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.exports import (
    change_manifest,
    export,
    finished,
    finished_with,
    load,
    prompts_of,
    rendered_pixels,
)
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render_shard, write_prompts
from tests.workflows.test_retry_rejected import Fixed, retry
from workflows.export.check import check_export
from workflows.export.destination import FilesMissingError
from workflows.export.layouts.layout import ExportError
from workflows.job import Images
from workflows.output.claim import claim_output
from workflows.output.layouts import LAYOUTS
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import StorageError
from workflows.storage.store import Storage

DATASETS = ("imagefolder", "webdataset")


def test_datasets_reads_the_packs_of_an_output_in_layout_parquet(tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", images=Images(layout="parquet")))

    packs = sorted(str(path) for path in (tmp_path / "out/images").glob("*.parquet"))
    rows = load_dataset("parquet", data_files=packs, split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("image", ImageFeature())
    assert {row["image_id"]: row["image"].tobytes() for row in rows} == rendered_pixels(job)


# ---- complete and resumed ------------------------------------------------------------------------------------------


def test_an_incomplete_output_is_refused_unless_the_user_allows_it(tmp_path: Path) -> None:
    job = make_job(prompts_of(tmp_path), tmp_path / "out")
    claim_output(job, {})
    render_shard(job, next(plan_job(job).remaining_shards()))

    with pytest.raises(ExportError, match=r"out is not complete \(2 images are missing\); finish it"):
        export(job, tmp_path / "ds", "webdataset")
    assert export(job, tmp_path / "ds", "webdataset", allow_incomplete=True).num_missing == 2

    finished(job)
    (tmp_path / "out/_SUCCESS").rename(tmp_path / "marked")
    with pytest.raises(
        ExportError, match=r"out is not complete \(_SUCCESS is missing\); finish it with `janus-batch r"
    ):
        export(job, tmp_path / "ds", "webdataset")
    (tmp_path / "marked").rename(tmp_path / "out/_SUCCESS")
    done = export(job, tmp_path / "ds", "webdataset")
    assert (done.num_shards_before, done.num_shards, done.written.num_images) == (1, 2, 4)


def test_an_output_without_images_is_refused(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"prompt": ["", " "]})

    with pytest.raises(ExportError, match=r"/out holds no images to export: every row is rejected"):
        export(job, tmp_path / "ds", "imagefolder")
    assert not (tmp_path / "ds").exists()


def test_an_interrupted_export_resumes_and_makes_the_same_files(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path, 20), tmp_path / "out"))
    export(job, tmp_path / "whole", "imagefolder")

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(job, tmp_path / "ds", "imagefolder", on_shard=stop)
    assert not (tmp_path / "ds/README.md").exists()
    done = export(job, tmp_path / "ds", "imagefolder")

    assert (done.num_shards_before, done.num_shards) == (3, 5)
    assert bytes_of(tmp_path / "ds") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("layout", DATASETS)
def test_images_of_a_retry_are_added_to_their_shard(tmp_path: Path, layout: str) -> None:
    job = finished_with(tmp_path, {"id": list("abc"), "prompt": ["a", "toy:nan b", "c"]})
    first = export(job, tmp_path / "ds", layout)
    retry(job, Fixed)
    second = export(job, tmp_path / "ds", layout)

    assert (first.written.num_images, second.written.num_images, second.written.num_prompts) == (2, 3, 3)
    assert len(load(layout, tmp_path / "ds")) == 3


def test_a_new_column_in_a_later_shard_is_added_to_all(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": ["one"]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))
    export(job, tmp_path / "ds", "imagefolder")
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": ["two"], "size": [3]})

    done = export(finished(job), tmp_path / "ds", "imagefolder")

    assert done.num_shards_before == 0
    assert {row["prompt"]: row["size"] for row in load("imagefolder", tmp_path / "ds")} == {"one": None, "two": 3}


# ---- the destination -----------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/thesis.txt").write_text("precious")

    with pytest.raises(ExportError, match=r"ds holds files and is not an export of janus-batch; export into an empty"):
        export(job, tmp_path / "ds", "imagefolder")
    assert bytes_of(tmp_path / "ds") == {"thesis.txt": b"precious"}


def test_an_export_of_another_layout_or_output_is_not_added_to(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    export(job, tmp_path / "ds", "imagefolder")

    with pytest.raises(ExportError, match=r"ds is an export of layout imagefolder, this one has webdataset"):
        export(job, tmp_path / "ds", "webdataset")
    other = finished(make_job(job.prompts, tmp_path / "other"))
    with pytest.raises(ExportError, match=r"ds is an export of output .*/out, this one has .*/other"):
        export(other, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize("dest", ["out/ds", "out", "link/ds"])
def test_a_destination_inside_the_output_is_refused(tmp_path: Path, dest: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = bytes_of(tmp_path / "out")

    with pytest.raises(ExportError, match=r"is inside the output .*/out; export into a folder outside of it"):
        export(job, tmp_path / dest, "imagefolder")
    assert bytes_of(tmp_path / "out") == before


def test_a_destination_inside_another_export_or_output_is_refused(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    other = finished(make_job(job.prompts, tmp_path / "other"))
    export(job, tmp_path / "ds", "imagefolder")
    before = bytes_of(tmp_path)

    with pytest.raises(ExportError, match=r"ds/sub/x is inside the export .*/ds; export into a folder outside of it"):
        export(job, tmp_path / "ds/sub/x", "parquet")
    with pytest.raises(StorageError, match=r"other/images/x is among the files of the output .*/other"):
        export(job, f"{other.output}/images/x", "parquet")
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", '{"c2pa": 1.5}'])
def test_a_damaged_claim_is_named(tmp_path: Path, text: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    export(job, tmp_path / "ds", "imagefolder")
    (tmp_path / "ds/.export/claim.json").write_text(text)

    with pytest.raises(ExportError, match=r"ds/.export/claim.json is damaged"):
        check_export(Storage(str(tmp_path / "ds")))
    with pytest.raises(ExportError, match=r"ds/.export/claim.json is damaged"):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"num_pairs": 0', '"num_pairs": "x"'),
        ('"num_pairs": 0', '"num_pairs": null'),
        ('"num_images": 2', '"num_images": -2'),
        ('"written": {""', '"written": {"test"'),
        ('"names": [', '"names": ["\\ud800", '),
    ],
)
def test_a_shard_whose_mark_was_edited_is_written_again(tmp_path: Path, old: str, new: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]})
    export(job, tmp_path / "ds", "imagefolder")
    whole = bytes_of(tmp_path / "ds")
    [mark] = (mark for mark in (tmp_path / "ds/.export").iterdir() if mark.name != "claim.json")
    assert old in mark.read_text()
    mark.write_text(mark.read_text().replace(old, new))

    assert export(job, tmp_path / "ds", "imagefolder").num_shards_before == 0
    assert bytes_of(tmp_path / "ds") == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"written": {"num_images": 4}, "columns": "x"}', "\0"])
def test_a_shard_with_a_damaged_mark_is_written_again(tmp_path: Path, text: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]})
    export(job, tmp_path / "ds", "imagefolder")
    whole = bytes_of(tmp_path / "ds")
    for mark in (tmp_path / "ds/.export").iterdir():
        if mark.name != "claim.json":
            mark.write_text(text)

    assert export(job, tmp_path / "ds", "imagefolder").num_shards_before == 0
    assert bytes_of(tmp_path / "ds") == whole


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [("imagefolder", "*.png"), ("imagefolder", "metadata.parquet"), ("webdataset", "*.tar"), ("dpg", "*.png"),
     ("geneval", "metadata.jsonl")],
)  # fmt: skip
def test_an_export_that_lacks_files_fails_and_the_next_one_restores_them(
    tmp_path: Path, layout: str, pattern: str
) -> None:
    job = finished_with(tmp_path, {"id": ["p1", "p2"], "metadata": ["{}", "{}"]})
    num_files = export(job, tmp_path / "ds", layout).written.num_files
    whole = bytes_of(tmp_path / "ds")
    next((tmp_path / "ds").rglob(pattern)).unlink()

    message = rf"/ds holds {num_files - 1} data files, but {num_files} were written to it"
    with pytest.raises(FilesMissingError, match=message):
        export(job, tmp_path / "ds", layout)
    export(job, tmp_path / "ds", layout)

    assert bytes_of(tmp_path / "ds") == whole


# ---- nothing wrong is shipped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", LAYOUTS)
@pytest.mark.parametrize("layout", [*DATASETS, "parquet", "lance", "dpg"])
def test_an_image_with_a_flipped_bit_stops_the_export_by_name(tmp_path: Path, stored: str, layout: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]}, images=Images(layout=stored))
    [row, _] = manifest_of(job)
    hashes = ["0" * 64, manifest_of(job)[1]["image_sha256"]]
    change_manifest(job, "image_sha256", pa.array(hashes))

    with pytest.raises(DamagedFileError, match=r"differs from the SHA-256 .*verify .*/out --repair`") as caught:
        export(job, tmp_path / "ds", layout)
    assert row["image"] in str(caught.value)
    assert not list((tmp_path / "ds").glob("README.md"))


def test_a_flipped_bit_in_a_file_is_found(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a"]}, images=Images(layout="files"))
    path = next((tmp_path / "out/images").rglob("*.png"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(DamagedFileError, match=r"a_0.png differs from the SHA-256 in its manifest row"):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize("stored", LAYOUTS)
def test_a_missing_image_stops_the_export_by_name(tmp_path: Path, stored: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]}, images=Images(layout=stored))
    location = manifest_of(job)[1]["image"]
    (tmp_path / "out" / location.partition("#")[0]).unlink()

    with pytest.raises(DamagedFileError, match=r"is missing\. `janus-batch verify .*/out --repair` takes it back"):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize(
    "location",
    [
        "images/../../secret.png",
        "../secret.png",
        "{folder}/secret.png",
        "file://{folder}/secret.png",
        "images/a/../../../secret.png",
        "images/a#../../secret.png",
        "s3://bucket/secret.png",
        "images\\..\\..\\secret.png",
        "images/./a.png",
        "images//secret.png",
        "secret.png",
        "images/a",
    ],
)
@pytest.mark.parametrize("layout", DATASETS)
def test_a_location_outside_the_output_is_damage(tmp_path: Path, location: str, layout: str) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})
    (tmp_path / "secret.png").write_bytes(b"secret")
    change_manifest(job, "image", pa.array([location.format(folder=tmp_path)]))

    with pytest.raises(
        DamagedFileError, match=r"manifest/.* is damaged \(image of row 0 must be an image file below images/, got "
    ):
        export(job, tmp_path / "ds", layout)
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("column", ["image_id", "prompt_id"])
@pytest.mark.parametrize("value", ["../../evil", "/evil", "a/b", "..", "", "a\\b", "a\nb"])
def test_an_id_that_would_leave_the_destination_is_damage(tmp_path: Path, column: str, value: str) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})
    change_manifest(job, column, pa.array([value]))

    with pytest.raises(DamagedFileError, match=rf"{column} of row 0 must be text without / or "):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize(("column", "values"), [("image_id", ["a_0", "a_0"]), ("prompt_id", ["a", "a"])])
def test_an_image_that_is_listed_twice_is_damage(tmp_path: Path, column: str, values: list[str]) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]})
    change_manifest(job, column, pa.array(values))

    with pytest.raises(DamagedFileError, match=r"lists image '.*' of shard .* twice"):
        export(job, tmp_path / "ds", "webdataset")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_folder_that_is_not_an_output_is_refused(tmp_path: Path, seed: int) -> None:
    (tmp_path / "out").mkdir()
    if seed == 2:
        (tmp_path / "out/job.json").write_text("{")
    if seed == 3:
        (tmp_path / "out/job.json").write_text(json.dumps({"name": "x"}))
    job = make_job(tmp_path / "prompts.parquet", tmp_path / "out", recipe=recipe())

    with pytest.raises(StorageError, match=r"job\.json"):
        export(job, tmp_path / "ds", "imagefolder")


def test_an_output_on_s3_is_exported_to_s3(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    job = make_job(prompts_of(tmp_path), f"{s3_folder}/out", storage=s3_server.storage_options)
    finished(job)

    export(job, f"{s3_folder}/ds", "webdataset")
    export(job, f"{s3_folder}/ds", "webdataset")

    names = Storage(f"{s3_folder}/ds", job.storage).walk("")
    assert {"README.md", ".export/claim.json"} <= set(names)
    assert len([name for name in names if name.endswith(".tar")]) == 2


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves a draft next to the file, also before the claim is there."""
    job = finished_with(tmp_path, {"id": ["a"]})
    for name in (".export/.claim.json.01234567.draft", "data/.x-000.parquet.89abcdef.draft"):
        draft = tmp_path / "ds" / name
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"x")
        os.utime(draft, (0, 0))

    export(job, tmp_path / "ds", "parquet")
    export(job, tmp_path / "undisturbed", "parquet")

    assert bytes_of(tmp_path / "ds") == bytes_of(tmp_path / "undisturbed")
