"""Exports of toy outputs, read back by the programs they are meant for."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render, render_shard, write_prompts
from tests.workflows.test_retry_rejected import HalfMended, Mended, retry
from workflows.export.layouts import ExportError
from workflows.export.write import export_output
from workflows.job import Images, RenderJob
from workflows.output.claim import claim_output, mark_success
from workflows.output.manifest import MANIFEST_SCHEMA
from workflows.storage.store import Storage

SWEEP = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)
FOUR = recipe(images_per_prompt=4)


def prompts_of(folder: Path, num: int = 6, **columns: Any) -> str:
    """Prompts with awkward ids, two of which cannot be made."""
    ids = [f"p.{n}#?" if n % 2 else f"p{n}" for n in range(num)]
    texts = [f'prompt {n}, "quoted", ünïcode' + (" toy:nan" if n in (2, 5) else "") for n in range(num)]
    return write_prompts(folder / "prompts.parquet", {"id": ids, "prompt": texts, "kind": ["a"] * num, **columns})


def finished(job: RenderJob) -> RenderJob:
    render(job)
    mark_success(job, len(manifest_of(job)), 0)
    return job


def export(job: RenderJob, dest: Path | str, layout: str, **options: Any) -> Any:
    return export_output(Storage(job.output, job.storage), Storage(str(dest), job.storage), layout, **options)


def card_of(dest: Path) -> tuple[dict[str, Any], str]:
    """The YAML head of the card, and the text below it."""
    _, head, text = (dest / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def pixels_of(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def pictures_of(job: RenderJob) -> dict[str, bytes]:
    """What the manifest says each picture is, by image id: from a plain output of the same prompts."""
    plain = dataclasses.replace(job, output=f"{job.output}-plain", images=Images(layout="files"))
    render(plain)
    return {row["image_id"]: pixels_of((Path(plain.output) / row["image"]).read_bytes()) for row in manifest_of(plain)}


@pytest.mark.parametrize("stored", ["files", "webdataset", "parquet"])
def test_datasets_reads_an_image_folder(tmp_path: Path, stored: str) -> None:
    from datasets import load_dataset

    job = make_job(prompts_of(tmp_path), tmp_path / "out", recipe=SWEEP, images=Images(layout=stored))

    export(finished(job), tmp_path / "ds", "imagefolder")

    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "ds"), split="train", cache_dir=str(tmp_path / "cache"))
    manifest, pictures = {row["image_id"]: row for row in manifest_of(job)}, pictures_of(job)
    assert len(rows) == len(manifest) == 4 * 4
    for row in rows:
        of_manifest = manifest[row["image_id"]]
        kept = [name for name in of_manifest if name not in ("image", "codes", "latents")]
        expected = {name: of_manifest[name] for name in kept} | {"seed": str(of_manifest["seed"])}
        assert {name: row[name] for name in kept} == expected
        assert row["image"].convert("RGB").tobytes() == pictures[row["image_id"]]


def test_datasets_finds_the_data_by_the_card(tmp_path: Path) -> None:
    from datasets import load_dataset

    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    for layout in ("imagefolder", "webdataset"):
        export(job, tmp_path / layout, layout)
        rows = load_dataset(str(tmp_path / layout), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == 4


def test_datasets_and_webdataset_read_a_webdataset(tmp_path: Path) -> None:
    import webdataset
    from datasets import load_dataset

    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=SWEEP))
    export(job, tmp_path / "ds", "webdataset")

    tars = sorted(str(path) for path in (tmp_path / "ds/data").glob("*.tar"))
    hashes = {row["image_id"]: row["image_sha256"] for row in manifest_of(job)}
    prompts = {row["image_id"]: row["prompt"] for row in manifest_of(job)}
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len(samples) == len(hashes) == 16
    for sample in samples:
        row = json.loads(sample["json"])
        assert hashlib.sha256(sample["png"]).hexdigest() == hashes[row["image_id"]]
        assert sample["txt"].decode() == prompts[row["image_id"]] == row["prompt"]
        assert row["kind"] == "a"

    rows = load_dataset("webdataset", data_files=tars, split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["json"]["image_id"] for row in rows} == set(hashes)
    assert rows[0]["png"].size == (64, 64)


def test_datasets_reads_the_packs_of_an_output_in_layout_parquet(tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", images=Images(layout="parquet")))

    packs = sorted(str(path) for path in (tmp_path / "out/images").glob("*.parquet"))
    rows = load_dataset("parquet", data_files=packs, split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("image", ImageFeature())
    assert {row["image_id"]: row["image"].tobytes() for row in rows} == pictures_of(job)


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
def test_geneval_gets_numbered_folders_of_png_samples(tmp_path: Path, image_format: str) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", geneval_columns(5))
    job = make_job(prompts, tmp_path / "out", recipe=FOUR, images=Images(layout="files", format=image_format))

    export(finished(job), tmp_path / "ge", "geneval")

    folders = sorted(path.name for path in (tmp_path / "ge").iterdir() if path.name.isdigit())
    assert folders == ["00000", "00001", "00002", "00003", "00004"]
    assert json.loads((tmp_path / "ge/00003/metadata.jsonl").read_text())["include"][0]["count"] == 3
    samples = sorted((tmp_path / "ge/00003/samples").iterdir())
    assert [path.name for path in samples] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert all(Image.open(path).format == "PNG" for path in samples)
    assert len({path.read_bytes() for path in samples}) == 4


def test_a_sweep_is_a_folder_of_its_own_for_each_weight(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", geneval_columns(2))
    swept = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=4)
    job = finished(make_job(prompts, tmp_path / "out", recipe=swept))

    export(job, tmp_path / "ge", "geneval")
    export(job, tmp_path / "dpg", "dpg")

    assert (tmp_path / "ge/w7.5/00001/samples/0003.png").exists()
    assert {path.name for path in (tmp_path / "dpg/w1/images").iterdir()} == {"geneval-00000.png", "geneval-00001.png"}


def test_geneval_needs_its_metadata(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))

    with pytest.raises(ExportError, match=r"geneval: the prompts need a column `metadata`"):
        export(job, tmp_path / "ge", "geneval")
    assert not (tmp_path / "ge").exists()


def test_dpg_gets_a_grid_of_four_in_reading_order_for_each_prompt(tmp_path: Path) -> None:
    texts = ["a", "b", "c toy:nan"]
    prompts = write_prompts(tmp_path / "prompts.parquet", {"id": ["0", "whoops_5", "9"], "prompt": texts})
    job = finished(make_job(prompts, tmp_path / "out", recipe=FOUR))

    done = export(job, tmp_path / "dpg", "dpg")

    assert {path.name for path in (tmp_path / "dpg/images").iterdir()} == {"0.png", "whoops_5.png"}
    grid, pictures = Image.open(tmp_path / "dpg/images/whoops_5.png"), pictures_of(job)
    assert grid.size == (128, 128)
    for index, corner in enumerate([(0, 0), (64, 0), (0, 64), (64, 64)]):
        tile = grid.crop((*corner, corner[0] + 64, corner[1] + 64))
        assert tile.tobytes() == pictures[f"whoops_5_{index}"]
    assert (done.written.num_images, done.written.num_files) == (8, 2)


def test_dpg_gets_the_whole_grid_of_a_prompt_some_of_whose_pictures_came_from_a_retry(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["toy:nan a", "b"], "id": ["a", "b"]})
    job = finished(make_job(prompts, tmp_path / "out", recipe=recipe(images_per_prompt=4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.workflows.test_retry_rejected.HalfMended.num_mended", 2)
        retry(job, HalfMended)
    first = export(job, tmp_path / "first", "dpg", allow_incomplete=True)
    retry(job, Mended)
    second = export(job, tmp_path / "second", "dpg")

    assert (first.written.num_files, first.written.num_left_out) == (1, 2)
    assert (second.written.num_files, second.written.num_left_out, second.written.num_images) == (2, 0, 8)
    assert {path.name for path in (tmp_path / "second/images").iterdir()} == {"a.png", "b.png"}


def test_dpg_wants_four_pictures_or_one(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=recipe(images_per_prompt=2)))

    with pytest.raises(ExportError, match=r"images_per_prompt must be 4 \(a grid\) or 1, got 2"):
        export(job, tmp_path / "dpg", "dpg")


def test_the_card_says_what_is_there_and_how_it_was_made(tmp_path: Path) -> None:
    job = make_job(prompts_of(tmp_path), tmp_path / "out", name="a | <b>name</b>", recipe=SWEEP)

    export(finished(job), tmp_path / "ds", "imagefolder", licence="cc0-1.0")

    head, text = card_of(tmp_path / "ds")
    assert (head["pretty_name"], head["license"], head["size_categories"]) == ("a | <b>name</b>", "cc0-1.0", ["n<1K"])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    facts = head["janus_batch"]
    assert (facts["num_images"], facts["num_prompts"], facts["num_rejected"]) == (16, 4, 8)
    assert facts["weights_sha256"] == job.recipe.weights_sha256
    assert "# a \\| \\<b\\>name\\</b\\>" in text
    assert f"| SHA-256 of the weights | {job.recipe.weights_sha256} |" in text
    assert "| guidance weight | 1, 7.5 |" in text
    assert "| kind | string |" in text
    assert all(f"`{name}`" in text for name in MANIFEST_SCHEMA.names if name not in ("image", "codes", "latents"))


def test_a_licence_that_nobody_stated_is_not_invented(tmp_path: Path) -> None:
    export(finished(make_job(prompts_of(tmp_path), tmp_path / "out")), tmp_path / "ds", "webdataset")

    head, text = card_of(tmp_path / "ds")
    assert (head["license"], head["license_name"]) == ("other", "not-stated")
    assert "not stated: whoever publishes this fills in `license` above" in text


def test_files_whose_columns_differ_make_one_dataset(tmp_path: Path) -> None:
    from datasets import load_dataset

    write_prompts(tmp_path / "prompts/a.parquet", {"prompt": ["one"], "kind": ["x"]})
    write_prompts(tmp_path / "prompts/b.parquet", {"prompt": ["two"], "size": [3]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    export(job, tmp_path / "ds", "imagefolder")

    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "ds"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["prompt"]: (row["kind"], row["size"]) for row in rows} == {"one": ("x", None), "two": (None, 3)}


def test_an_output_that_is_not_complete_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    job = make_job(prompts_of(tmp_path), tmp_path / "out")
    claim_output(job, {})
    render_shard(job, next(plan_job(job).remaining_shards()))

    with pytest.raises(ExportError, match=r"out is not complete \(2 images are missing\); finish it"):
        export(job, tmp_path / "ds", "webdataset")
    assert export(job, tmp_path / "ds", "webdataset", allow_incomplete=True).num_missing == 2

    finished(job)
    done = export(job, tmp_path / "ds", "webdataset")
    assert (done.num_shards_before, done.num_shards, done.written.num_images) == (1, 2, 4)


def test_an_interrupted_export_goes_on_and_comes_to_the_same_files(tmp_path: Path) -> None:
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


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/thesis.txt").write_text("precious")

    with pytest.raises(ExportError, match=r"ds holds files and is no export of janus-batch; export into an empty"):
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


def test_a_picture_that_is_gone_stops_the_export_by_name(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))
    place = manifest_of(job)[1]["image"]
    (tmp_path / "out" / place).unlink()

    with pytest.raises(ValueError, match=r"is missing; `janus-batch verify` names every fault") as caught:
        export(job, tmp_path / "ds", "imagefolder")
    assert place in str(caught.value)


def test_an_output_on_s3_is_exported_to_s3(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    job = make_job(prompts_of(tmp_path), f"{s3_folder}/out", storage=s3_server.storage_options)
    finished(job)

    export(job, f"{s3_folder}/ds", "webdataset")
    export(job, f"{s3_folder}/ds", "webdataset")

    names = Storage(f"{s3_folder}/ds", job.storage).walk("")
    assert {"README.md", ".export/claim.json"} <= set(names)
    assert len([name for name in names if name.endswith(".tar")]) == 2
