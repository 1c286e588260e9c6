"""The layouts: the manifest locates every image, and the readers of webdataset and Parquet packs accept them."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.toy_job import bytes_of, make_job, manifest_of, recipe, render, write_prompts
from workflows.job import Images
from workflows.output.layouts import LAYOUTS, location, npy_bytes, read_image, read_pack
from workflows.prompt_files.ids import MAX_ID_BYTES
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

IDS = ["plain", "v1.2.3", "v1%2E2", "hash#tag", "quest?ion", "50%", "ünï 🦊", "a b", "x_0", "~home", "*", "[a]"]


def rendered(tmp_path: Path, layout: str, **changes):
    columns = {"prompt": [f"an image of {i}" for i in IDS], "id": IDS}
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", columns),
        tmp_path / "out",
        images=Images(layout=layout, **changes),
        shard_rows=5,
    )
    render(job)
    return job


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_is_found_where_the_manifest_says(tmp_path: Path, layout: str, image_format: str) -> None:
    job = rendered(tmp_path, layout, format=image_format)
    rows, storage = manifest_of(job), Storage(job.output)

    files = {row["prompt_id"]: read_image(storage, row["image"]) for row in rows}

    assert list(files) == IDS
    assert len(set(files.values())) == len(IDS)
    for row in rows:
        start = {"png": b"\x89PNG", "webp": b"RIFF", "jpeg": b"\xff\xd8"}[image_format]
        assert files[row["prompt_id"]].startswith(start)
        assert row["image"].endswith({"jpeg": ".jpg"}.get(image_format, f".{image_format}"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_holds_the_same_image_files_as_the_others(tmp_path: Path, layout: str) -> None:
    files, other = rendered(tmp_path / "files", "files"), rendered(tmp_path / "other", layout)

    assert [row["image_sha256"] for row in manifest_of(other)] == [row["image_sha256"] for row in manifest_of(files)]


def test_layout_files_has_one_folder_per_shard(tmp_path: Path) -> None:
    job = rendered(tmp_path, "files")

    for row in manifest_of(job):
        folder, shard, name = row["image"].split("/")
        assert folder == "images"
        assert (Path(job.output) / "manifest" / f"{shard}.parquet").is_file()
        assert (Path(job.output) / row["image"]).is_file()
        assert not set(name) & set("#?")


def test_a_webdataset_pack_is_read_as_samples_by_webdatasets_naming_rule(tmp_path: Path) -> None:
    job = rendered(tmp_path, "webdataset")
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(Path(job.output, "images").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                # webdataset's base_plus_ext: the key ends at the first dot of the name, the extension follows it
                key, extension = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name).groups()
                samples.setdefault(key, {})[extension] = tar.extractfile(member).read()

    assert len(samples) == len(IDS)
    assert all(set(sample) == {"png", "txt"} for sample in samples.values())
    assert sorted(sample["txt"].decode() for sample in samples.values()) == sorted(f"an image of {i}" for i in IDS)


def test_the_members_of_a_webdataset_sample_are_adjacent_and_in_the_manifests_order(tmp_path: Path) -> None:
    job = rendered(tmp_path, "webdataset")
    (first, *_) = sorted(Path(job.output, "images").glob("*.tar"))

    with tarfile.open(first) as tar:
        names = tar.getnames()

    images = [
        row["image"].partition("#")[2] for row in manifest_of(job) if row["image"].startswith(f"images/{first.name}")
    ]
    assert names == [name for image in images for name in (image, image.removesuffix("png") + "txt")]


def test_a_parquet_pack_is_a_table_with_the_image_struct_of_datasets(tmp_path: Path) -> None:
    job = rendered(tmp_path, "parquet")
    (first, *_) = sorted(Path(job.output, "images").glob("*.parquet"))

    table = pq.read_table(first)

    assert table.schema.names == ["image_id", "prompt", "image", "latents"]
    assert table.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert table["prompt"].to_pylist() == [f"an image of {i}" for i in IDS[:5]]
    assert table["image"][1].as_py()["path"] == "v1.2.3_0.png"
    assert table["latents"].null_count == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_job_writes_the_same_bytes(tmp_path: Path, layout: str) -> None:
    first, second = (rendered(tmp_path / name, layout) for name in ("first", "second"))

    def images(job):
        # a shard's name holds the version of the prompt file, which is another file here
        return sorted(data for name, data in bytes_of(job.output).items() if name.startswith("images/"))

    assert images(first) == images(second)


@pytest.mark.parametrize("layout", LAYOUTS)
@example(["a.b", "a%2Eb", "a#b", "a%23b", "a?b", "a%3Fb"])
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1), unique=True)
)
def test_different_ids_have_different_locations(layout: str, ids: list[str]) -> None:
    assert len({location(layout, "shard-1", image_id, "png") for image_id in ids}) == len(ids)


def test_the_longest_id_fits_in_a_file_name(tmp_path: Path) -> None:
    columns = {"prompt": ["a"] * 3, "id": ["x" * MAX_ID_BYTES, "é" * (MAX_ID_BYTES // 2), "#" * (MAX_ID_BYTES // 3)]}
    weights = (1.0, 1.23456)
    job = make_job(write_prompts(tmp_path / "a.parquet", columns), tmp_path / "out", recipe=recipe(cfg_weights=weights))

    (receipt,) = render(job)

    assert (receipt.num_images, receipt.num_rejected) == (6, 0)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    storage = Storage(rendered(tmp_path, "webdataset").output)
    (pack, *_) = storage.names("images")

    with pytest.raises(FileNotFoundError):
        read_image(storage, "images/none.tar#x_0.png")
    with pytest.raises(KeyError, match=r"nothing_0.png"):
        read_image(storage, f"images/{pack}#nothing_0.png")


@pytest.mark.parametrize(("layout", "ending"), [("webdataset", "tar"), ("parquet", "parquet")])
def test_a_damaged_pack_is_named(tmp_path: Path, layout: str, ending: str) -> None:
    storage = Storage(rendered(tmp_path, layout).output)
    (pack, *_) = storage.names("images")
    storage.write(f"images/{pack}", b"\1" * 5000)

    with pytest.raises(DamagedFileError, match=rf"images/.*\.{ending} cannot be read: the file is damaged \("):
        read_pack(storage, f"images/{pack}")


def test_latents_come_back_as_an_array() -> None:
    latents = np.arange(8, dtype=np.float32).reshape(2, 2, 2)

    loaded = np.load(io.BytesIO(npy_bytes(latents)), allow_pickle=False)

    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, latents)
