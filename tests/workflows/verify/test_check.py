"""Verify: every kind of damage to an output is found and named, and a whole output has no fault."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.claim import read_claim
from workflows.output.layouts import LAYOUTS
from workflows.output.manifest import committed_parts, read_table
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output
from workflows.verify.repair import repair_output

SWEEP = recipe(images_per_prompt=2, cfg_weights=(1.0, 5.0))
PROMPTS = {
    "prompt": ["a", None, "toy:nan", "d", "e", "f"],
    "id": list("abcdef"),
    "cfg_weight": [None, None, None, 3.0, None, None],
}


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """An output of two shards: a sweep, a row with a weight of its own, a rejected row and rejected images."""
    job = make_job(write_prompts(tmp_path / "prompts.parquet", PROMPTS), tmp_path / "out", recipe=SWEEP)
    render(job)
    return job


def verify(job: RenderJob) -> Findings:
    return verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_a_whole_output_has_no_fault(tmp_path: Path, layout: str, image_format: str) -> None:
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", PROMPTS),
        tmp_path / "out",
        recipe=SWEEP,
        images=Images(layout=layout, format=image_format),
    )
    render(job)

    findings = verify(job)

    assert findings.is_whole
    assert findings == Findings(num_images=14, num_rejected=8)


def test_a_whole_output_on_s3_has_no_fault(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", PROMPTS)
    job = make_job(path, f"{s3_folder}/out", recipe=SWEEP, storage=s3_server.storage_options)
    render(job)

    assert verify(job) == Findings(num_images=14, num_rejected=8)


def test_a_missing_image_is_named(job: RenderJob) -> None:
    row = manifest_of(job)[5]
    Storage(job.output).remove(row["image"])

    findings = verify(job)

    assert findings.faults == [f"{row['image']} is missing"]
    assert not findings.is_whole


def test_a_changed_image_is_named(job: RenderJob) -> None:
    row, storage = manifest_of(job)[0], Storage(job.output)
    storage.write(row["image"], storage.read(row["image"]) + b"\0")

    assert verify(job).faults == [
        f"{row['image']} is not the file that its manifest row describes: its SHA-256 differs"
    ]


def test_swapped_images_are_named(job: RenderJob) -> None:
    first, second, *_ = manifest_of(job)
    storage = Storage(job.output)
    a, b = storage.read(first["image"]), storage.read(second["image"])
    storage.write(first["image"], b)
    storage.write(second["image"], a)

    assert len(verify(job).faults) == 2


def packed(job: RenderJob, layout: str) -> tuple[RenderJob, str]:
    """The same job in packs, and the name of one pack."""
    job = dataclasses.replace(job, output=f"{job.output}-{layout}", images=Images(layout=layout))
    render(job)
    return job, "images/" + Storage(job.output).names("images")[0]


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_missing_or_damaged_pack_is_named(job: RenderJob, layout: str) -> None:
    job, pack = packed(job, layout)
    storage = Storage(job.output)

    storage.write(pack, b"\1" * 2000)
    (fault,) = verify(job).faults
    assert fault.startswith(f"{pack} cannot be read: the file is damaged (")

    storage.remove(pack)
    assert set(verify(job).faults) == {f"{r['image']} is missing" for r in manifest_of(job) if pack in r["image"]}


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_changed_image_in_a_pack_is_named(job: RenderJob, layout: str) -> None:
    job, pack = packed(job, layout)
    storage, other = Storage(job.output), dataclasses.replace(job, output=f"{job.output}-other")
    render(dataclasses.replace(other, recipe=dataclasses.replace(SWEEP, seed=1)))
    storage.write(pack, Storage(other.output).read(pack))

    assert len(verify(job).faults) == sum(pack in row["image"] for row in manifest_of(job))


def test_a_missing_manifest_part_means_missing_images_and_orphans(job: RenderJob) -> None:
    storage = Storage(job.output)
    first, _ = storage.names("manifest")
    storage.remove(f"manifest/{first}")

    findings = verify(job)

    assert findings.num_missing == 4 * 4
    assert findings.num_images == 8
    assert not findings.is_whole
    assert len(findings.orphans) == 6 + 1  # the images of rows a and d, and the file of rejected rows
    assert findings.orphans[-1] == f"rejected/{first}"


@pytest.mark.parametrize("folder", ["manifest", "rejected"])
def test_a_damaged_part_is_named_and_the_others_are_checked(job: RenderJob, folder: str) -> None:
    storage = Storage(job.output)
    first, second = storage.names("manifest")
    storage.write(f"{folder}/{first}", b"no parquet")
    storage.remove(pq.read_table(f"{job.output}/manifest/{second}")["image"][0].as_py())

    findings = verify(job)

    assert len(findings.faults) == 2
    assert findings.faults[0].startswith(f"{job.output}/{folder}/{first} is no Parquet file, it is CSV or other text;")
    assert findings.faults[1].endswith(" is missing")


def test_a_flipped_bit_in_a_page_is_found_or_changes_no_row(job: RenderJob) -> None:
    """By the checksum of the page. No other file holds a hash of a manifest part."""
    storage, name = Storage(job.output), "manifest/" + Storage(job.output).names("manifest")[0]
    good, table = storage.read(name), read_table(storage, name)
    num_pages_bytes = len(good) - 8 - int.from_bytes(good[-8:-4], "little")  # before the footer
    num_found = 0
    for position in range(4, num_pages_bytes, 7):
        storage.write(name, good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        try:
            assert read_table(storage, name).equals(table)  # some bits of a page header are not read
        except DamagedFileError:
            num_found += 1

    assert num_found > num_pages_bytes / 7 / 2
    storage.write(name, good[:position] + b"\0" * 4 + good[position + 4 :])
    (fault,) = verify(job).faults
    assert fault.startswith(f"{job.output}/{name} cannot be read: the file is damaged (")
    assert f"`janus-batch verify {job.output} --repair`" in fault


@pytest.mark.parametrize("new_name", [b"imagf_sha256", b"\xffmage_sha256"])
def test_a_missing_column_is_named(job: RenderJob, new_name: bytes) -> None:
    storage, name = Storage(job.output), "manifest/" + Storage(job.output).names("manifest")[0]
    storage.write(name, storage.read(name).replace(b"image_sha256", new_name))

    (fault,) = verify(job).faults

    assert fault.startswith(f"{job.output}/{name} cannot be read: the file is damaged (")


def test_a_missing_file_of_rejected_rows_is_named(job: RenderJob) -> None:
    storage = Storage(job.output)
    (part,) = storage.names("rejected")
    storage.remove(f"rejected/{part}")

    (fault,) = verify(job).faults

    assert fault == f"rejected/{part} is missing"


def change_part(job: RenderJob, change: Callable) -> None:
    """Rewrite the first manifest part."""
    path = min(Path(job.output, "manifest").iterdir())
    pq.write_table(change(pq.read_table(path)), path)


def test_a_missing_manifest_row_is_found_by_the_count_of_its_prompt(job: RenderJob) -> None:
    change_part(job, lambda table: table.slice(1))

    findings = verify(job)

    assert findings.faults == ["prompt 'a' has 3 images of 4"]
    assert len(findings.orphans) == 1


def test_a_missing_weight_of_a_sweep_is_found_by_the_count_of_its_prompt(tmp_path: Path) -> None:
    three_weights = recipe(cfg_weights=(1.0, 3.0, 5.0))
    job = make_job(
        write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"], "id": ["x"]}),
        tmp_path / "out",
        recipe=three_weights,
    )
    render(job)

    change_part(job, lambda table: table.slice(1))

    assert verify(job).faults == ["prompt 'x' has 2 images of 3"]


def test_a_row_with_a_weight_of_its_own_has_fewer_images_and_no_fault(job: RenderJob) -> None:
    assert sum(row["prompt_id"] == "d" for row in manifest_of(job)) == 2
    assert verify(job).faults == []


def test_rows_rendered_with_other_settings_are_named(job: RenderJob) -> None:
    other = pa.array(["other-9"])

    def change(table: pa.Table) -> pa.Table:
        column = table.schema.get_field_index("sampler")
        return table.set_column(column, "sampler", pa.concat_arrays([other, table["sampler"].combine_chunks()[1:]]))

    change_part(job, change)
    (fault,) = verify(job).faults
    assert fault.endswith(f" was rendered with sampler other-9, job.json has {job.recipe.sampler}")


def test_an_image_in_two_shards_is_named(tmp_path: Path) -> None:
    """`janus-batch render` refuses such prompts since 2026-11-27; older outputs may have them."""
    columns = {"prompt": ["a", "b", "c", "d", "e"], "id": ["x", "y", "z", "w", "x"]}
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out")
    render(job)

    findings = verify(job)

    shards = " and ".join(sorted(committed_parts(Storage(job.output))))
    assert findings.faults == [f"prompt 'x', image 0, weight 5 is in the manifest 2 times, in {shards}"]
    assert not findings.is_whole


def test_rows_that_are_not_rendered_yet_are_missing(job: RenderJob, tmp_path: Path) -> None:
    write_prompts(tmp_path / "more/prompts.parquet", PROMPTS)
    Path(job.prompts).replace(tmp_path / "more/old.parquet")
    plan = plan_job(dataclasses.replace(job, prompts=str(tmp_path / "more"), output=str(tmp_path / "none")))

    findings = verify_output(Storage(job.output), plan, job.recipe)

    assert findings.num_missing == 12 * 4


def test_files_that_no_part_names_are_orphans_and_no_fault(job: RenderJob) -> None:
    storage = Storage(job.output)
    storage.write("images/lost-shard/x_0.png", b"of a shard that was never committed")
    storage.write("rejected/lost-shard.parquet", b"")
    storage.write("manifest/notes.parquet", b"of another program")

    findings = verify(job)

    assert findings.orphans == ["images/lost-shard/x_0.png", "manifest/notes.parquet", "rejected/lost-shard.parquet"]
    assert findings.is_whole


@pytest.mark.parametrize("column", ["image", "latents"])
def test_a_name_that_no_file_can_have_is_named(job: RenderJob, column: str) -> None:
    (path, *_) = sorted(Path(job.output, "manifest").iterdir())
    table = pq.read_table(path)
    names = table[column].to_pylist()
    names[0] = f"images/shard/{'x' * 300}.{'png' if column == 'image' else 'npy'}"
    table = table.set_column(table.column_names.index(column), table.schema.field(column), [names])
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)

    findings = verify(job)

    assert f"{names[0]} is missing" in findings.faults


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)], ids=["pipe", "dir", "loop"])
def test_what_is_no_file_is_named(job: RenderJob, put: Callable[[str], None]) -> None:
    (path, *_) = sorted(Path(job.output, "images").rglob("*.png"))
    path.unlink()
    put(str(path))

    findings = verify(job)
    assert findings.faults == [f"{path.relative_to(job.output)} is missing"]

    storage = Storage(job.output)
    repair_output(storage, read_claim(storage), plan_job(job), committed_parts(storage), findings.at_fault)
    render(job)  # next to it
    assert verify(job).faults == []


def test_verify_changes_nothing(job: RenderJob) -> None:
    before = bytes_of(job.output)
    verify(job)

    assert bytes_of(job.output) == before
