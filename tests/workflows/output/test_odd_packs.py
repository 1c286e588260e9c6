"""Packs with odd or damaged content: their members, or one of our own errors."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import InputError
from tests.support.exports import finished_with
from tests.support.toy_job import manifest_of, plan_job
from workflows.job import Images
from workflows.output.layouts import read_pack
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage
from workflows.verify.check import verify_output


def parquet_of(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def tar_of(name: str, kind: bytes, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "../../etc/passwd"
        tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", parquet_of(x=[1])),
        ("a.parquet", parquet_of(image=["a"], latents=["b"])),
        ("a.parquet", parquet_of(image=[{"x": [1]}], latents=[{"path": [2]}])),
        ("a.parquet", b"PAR1"),
        ("a.tar", b""),
        ("a.tar", b"x" * 2000),
        ("a.tar", parquet_of(x=[1])),
        ("a.tar", tar_of("a.png", tarfile.REGTYPE, "w:gz")),
    ],
)
def test_a_file_that_is_not_a_pack_is_damaged(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)

    with pytest.raises(DamagedFileError, match=rf"{name} cannot be read: the file is damaged"):
        read_pack(Storage(str(tmp_path)), name)


def test_a_pack_that_is_no_parquet_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")

    with pytest.raises(DamagedFileError, match=r"a.parquet is no Parquet file, it is empty \(0 bytes\)"):
        read_pack(Storage(str(tmp_path)), "a.parquet")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", parquet_of(image=pa.nulls(2), latents=pa.nulls(2))),
        ("a.parquet", parquet_of(image=[{"bytes": None, "path": "a.png"}], latents=pa.nulls(1))),
        ("a.tar", tar_of("a.png", tarfile.SYMTYPE)),
        ("a.tar", tar_of("a.png", tarfile.LNKTYPE)),
        ("a.tar", tar_of("a.png", tarfile.DIRTYPE)),
    ],
)
def test_links_and_entries_without_bytes_are_not_members(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)

    assert read_pack(Storage(str(tmp_path)), name) == {}


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_pack_with_changed_bytes_is_read_or_refused(tmp_path: Path, layout: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]}, images=Images(layout=layout))
    [pack] = (tmp_path / "out/images").iterdir()
    good, chance, num_refused = pack.read_bytes(), random.Random(0), 0

    for _ in range(200):
        data = bytearray(good)
        for _ in range(chance.choice([1, 2, 8])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        pack.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            read_pack(Storage(job.output), f"images/{pack.name}")
        except InputError:
            num_refused += 1

    assert num_refused > 50


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_shard_without_images_gets_no_pack(tmp_path: Path, layout: str) -> None:
    job = finished_with(tmp_path, {"prompt": ["", " ", "a"]}, images=Images(layout=layout), shard_rows=2)

    [pack] = (tmp_path / "out/images").iterdir()
    assert "000000002-000000003" in pack.name
    assert len(manifest_of(job)) == 1
    storage = Storage(job.output)
    findings = verify_output(storage, plan_job(job), job.recipe)
    assert (findings.faults, findings.num_images, findings.num_rejected) == ([], 1, 2)
