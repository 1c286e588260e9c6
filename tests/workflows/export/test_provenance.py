"""C2PA manifests in exports: for each image or each shard, checked by `verify`."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import c2pa
import pytest

from actors.errors import InputError
from tests.support.certificates import KEYS, write_certificate, write_key
from tests.support.command_line import Command
from tests.support.exports import (
    export,
    finished,
    finished_with,
    load_splits,
    prompts_of,
    rendered_pixels,
    score,
    score_of,
)
from tests.support.toy_job import bytes_of, make_job, manifest_of, recipe
from workflows.export.check import check_export
from workflows.export.layouts.layout import ExportError
from workflows.export.provenance import Credentials, open_credentials, tree_root
from workflows.export.rules import Rules, read_splits
from workflows.job import Images, RenderJob
from workflows.scores.parts import Scorer
from workflows.storage.store import Storage


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return finished(make_job(prompts_of(tmp_path), tmp_path / "out"))


def credentials(folder: Path, unit: str, kind: str = "P-256") -> Credentials:
    return open_credentials(unit, *write_certificate(folder, kind))  # type: ignore[arg-type]


def faults_of(folder: Path) -> list[str]:
    return check_export(Storage(str(folder))).faults


@pytest.mark.parametrize("kind", KEYS)
def test_each_image_says_what_made_it_and_is_valid(job: RenderJob, tmp_path: Path, kind: str) -> None:
    export(job, tmp_path / "ds", "imagefolder", credentials=credentials(tmp_path, "image", kind))

    rows = {row["image_id"]: row for row in manifest_of(job)}
    files = sorted((tmp_path / "ds").rglob("*.png"))
    assert len(files) == len(rows) == 4
    for file in files:
        with c2pa.Reader("image/png", io.BytesIO(file.read_bytes())) as reader:
            store, state = json.loads(reader.json()), reader.get_validation_state()
        assertions = store["manifests"][store["active_manifest"]]["assertions"]
        facts = {one["label"]: one["data"] for one in assertions}
        row = rows[facts["org.janus-batch.image"]["image_id"]]
        assert state == "Valid"
        [action] = facts["c2pa.actions.v2"]["actions"]
        assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert facts["org.janus-batch.image"]["prompt"] == row["prompt"]
        assert facts["org.janus-batch.image"]["image_sha256"] == row["image_sha256"]


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_signed_images_of_every_format_keep_their_pixels(tmp_path: Path, layout: str, image_format: str) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b"]}, images=Images(layout="files", format=image_format))

    export(job, tmp_path / "ds", layout, credentials=credentials(tmp_path, "image"))

    findings = check_export(Storage(str(tmp_path / "ds")))
    assert (findings.num_images, findings.num_signed, findings.faults) == (2, 2, [])
    if layout == "parquet":
        pixels = rendered_pixels(job) if image_format == "png" else {}
        for row in load_splits(tmp_path / "ds")["train"]:
            assert row["image"].convert("RGB").tobytes() == pixels.get(
                row["image_id"], row["image"].convert("RGB").tobytes()
            )


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet", "lance"])
def test_each_shard_lists_its_images_and_signs_their_hash_tree(job: RenderJob, tmp_path: Path, layout: str) -> None:
    rules = Rules(splits=read_splits("train=0.5,test=0.5"))

    export(job, tmp_path / "ds", layout, rules=rules, credentials=credentials(tmp_path, "shard"))

    listed = {}
    for path in (tmp_path / "ds/provenance").iterdir():
        with zipfile.ZipFile(path) as archive:
            listed |= {one["image_id"]: one["sha256"] for one in json.loads(archive.read("hashes.json"))["images"]}
    findings = check_export(Storage(str(tmp_path / "ds")))
    assert listed == {row["image_id"]: row["image_sha256"] for row in manifest_of(job)}
    assert findings.faults == []
    assert findings.num_signed == len(list((tmp_path / "ds/provenance").iterdir()))


def test_pairs_are_signed(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=recipe(images_per_prompt=2)))
    score(job, Scorer(name="clip", version="1"), similarity=score_of)

    for unit in ("image", "shard"):
        for layout in ("parquet", "pickapic"):
            dest = tmp_path / f"{unit}-{layout}"
            export(job, dest, layout, rules=Rules(pairs="clip"), credentials=credentials(tmp_path, unit))
            assert faults_of(dest) == []


@pytest.mark.parametrize("unit", ["image", "shard"])
def test_a_changed_image_is_found(job: RenderJob, tmp_path: Path, unit: str) -> None:
    export(job, tmp_path / "ds", "imagefolder", credentials=credentials(tmp_path, unit))
    path = next((tmp_path / "ds").rglob("p0_0.png"))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)

    faults = faults_of(tmp_path / "ds")

    assert faults
    assert any("p0_0" in fault for fault in faults)


def test_a_signed_list_with_another_hash_is_found(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "imagefolder", credentials=credentials(tmp_path, "shard"))
    path = next((tmp_path / "ds/provenance").iterdir())
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["hashes.json"] = files["hashes.json"].replace(b'"sha256": "', b'"sha256": "0', 1).replace(b'",', b'",', 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)

    assert any("provenance/" in fault for fault in faults_of(tmp_path / "ds"))


def test_an_export_without_signatures_is_checked_against_its_rows(job: RenderJob, tmp_path: Path) -> None:
    for layout in ("imagefolder", "webdataset", "parquet", "lance"):
        export(job, tmp_path / layout, layout)
        findings = check_export(Storage(str(tmp_path / layout)))
        assert (findings.num_images, findings.faults) == (4, [])
    path = next((tmp_path / "imagefolder").rglob("*.png"))
    path.write_bytes(path.read_bytes() + b"x")
    next((tmp_path / "webdataset").rglob("*.tar")).unlink()

    assert [fault.rpartition("/")[2] for fault in faults_of(tmp_path / "imagefolder")] == [
        f"{path.name} is not the image of its row: its SHA-256 differs"
    ]
    assert [fault.endswith(".tar is missing") for fault in faults_of(tmp_path / "webdataset")] == [True]


def test_the_hash_tree_is_that_of_rfc_9162() -> None:
    hashes = [hashlib.sha256(bytes([n])).digest() for n in range(3)]
    leaves = [hashlib.sha256(b"\0" + one).digest() for one in hashes]
    pair = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()

    assert tree_root(hashes) == hashlib.sha256(b"\1" + pair + leaves[2]).digest()
    assert tree_root([]) == hashlib.sha256(b"").digest()


def test_the_key_is_not_in_the_export_and_not_shown(job: RenderJob, tmp_path: Path) -> None:
    of_test = credentials(tmp_path, "shard")
    export(job, tmp_path / "ds", "imagefolder", credentials=of_test)

    secret = (tmp_path / "key.pem").read_bytes().splitlines()[1]
    assert secret not in b"".join(bytes_of(tmp_path / "ds").values())
    assert secret.decode() not in repr(of_test)


def test_an_export_is_resumed_with_the_same_certificate_only(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "imagefolder", credentials=credentials(tmp_path, "image"))

    with pytest.raises(ExportError, match="is an export of c2pa "):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize("layout", ["geneval", "dpg"])
def test_a_benchmark_is_not_signed(tmp_path: Path, layout: str) -> None:
    job = finished_with(tmp_path, {"id": ["p1"], "metadata": ["{}"]})

    with pytest.raises(ExportError, match=f"--c2pa needs a layout that holds the images and their rows, got {layout}"):
        export(job, tmp_path / "ds", layout, credentials=credentials(tmp_path, "image"))


def test_certificates_and_keys_that_cannot_sign_are_refused(tmp_path: Path) -> None:
    chain, key = write_certificate(tmp_path)
    write_key(tmp_path / "other.pem")
    (tmp_path / "text").write_text("no key")
    for certificate, private, message in (
        (None, key, "--c2pa needs --c2pa-certificate and --c2pa-key"),
        (chain, str(tmp_path / "none"), r"--c2pa-key: .*none cannot be read: No such file"),
        (chain, str(tmp_path / "text"), r"--c2pa-key: .*text holds no private key in PEM format"),
        (str(tmp_path / "text"), key, r"--c2pa-certificate: .*text holds no certificate in PEM format"),
        (chain, str(tmp_path / "other.pem"), r"--c2pa-key: .*other.pem is not the key of the first certificate in"),
    ):
        with pytest.raises(InputError, match=message):
            open_credentials("image", certificate, private)


def test_a_certificate_for_another_purpose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot sign for C2PA"):
        open_credentials("image", *write_certificate(tmp_path, can_sign=False))


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)

    with pytest.raises(InputError, match=r'--c2pa needs the package c2pa-python: pip install "janus-batch\[c2pa\]"'):
        open_credentials("image", *write_certificate(tmp_path))


def test_the_command_line_signs_and_verifies(
    job: RenderJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    chain, key = write_certificate(tmp_path)
    monkeypatch.setenv("JANUS_BATCH_C2PA_CERTIFICATE", chain)
    monkeypatch.setenv("JANUS_BATCH_C2PA_KEY", key)

    code, _, err = command("export", job.output, str(tmp_path / "ds"), "--layout", "parquet", "--c2pa", "image")
    assert code == 0, err
    code, out, _ = command("verify", str(tmp_path / "ds"))

    assert code == 0
    assert "signed      4 valid C2PA manifests" in out.splitlines()
    code, _, err = command("verify", str(tmp_path / "ds"), "--repair")
    assert (code, err.splitlines()) == (
        2, [f"janus-batch: --replay, --repair and --clean are for outputs, and {tmp_path}/ds is an export"]
    )  # fmt: skip
