"""Check an export: its files are there, its images are those of their rows, and its C2PA manifests are valid."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from actors.errors import one_line
from workflows.export.destination import CLAIM_FILE, MARKS, Mark, read_claim_of_export, read_mark
from workflows.export.layouts.lance import read_fragment
from workflows.export.provenance import HASHES_FILE, SHARD_LABEL, assertion_of, fault_of, tree_root
from workflows.storage.damage import DamagedFileError, damage_errors
from workflows.storage.parquet import read_parquet
from workflows.storage.store import Storage

# The columns of images in tables, and those with the id and the hash of each.
_TABLE_COLUMNS = {
    "image": ("image_id", "image_sha256"),
    "chosen": ("chosen_image_id", "chosen_image_sha256"),
    "rejected": ("rejected_image_id", "rejected_image_sha256"),
    "jpg_0": ("image_id_0", "image_sha256_0"),
    "jpg_1": ("image_id_1", "image_sha256_1"),
}


@dataclass(kw_only=True, slots=True)
class ExportFindings:
    """The result of a check: images read, valid manifests, and what is wrong, one line each."""

    num_files: int = 0
    num_images: int = 0
    num_signed: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredImage:
    """An image of an export: its file (and member or row), its id, its bytes, and the hash that its row has."""

    where: str
    image_id: str
    data: bytes
    sha256: str | None


def is_export(storage: Storage) -> bool:
    """Whether a folder holds an export."""
    return storage.exists(CLAIM_FILE)


def check_export(dest: Storage) -> ExportFindings:
    """Read every file of an export. Memory holds one file at a time."""
    findings, claim = ExportFindings(), read_claim_of_export(dest)
    unit = (claim.get("c2pa") or {}).get("unit")
    marks = [name.removesuffix(".json") for name in dest.names(MARKS) if f"{MARKS}/{name}" != CLAIM_FILE]
    for shard_id in marks:
        mark = read_mark(dest, shard_id)
        if mark is None:
            findings.faults.append(f"{MARKS}/{shard_id}.json is damaged; the next export writes the shard again")
            continue
        hashes = _check_shard(dest, mark, unit, findings)
        if unit == "shard" and not any(line.startswith(shard_id) for line in findings.faults):
            _check_hashes(dest, mark, hashes, findings)
    return findings


def _check_shard(dest: Storage, mark: Mark, unit: str | None, findings: ExportFindings) -> dict[str, str]:
    """Check the files of a shard. Returns the hashes of its images by id."""
    hashes = dict[str, str]()
    for name in mark.names:
        findings.num_files += 1
        try:
            for image in _images_in(dest, name):
                findings.num_images += 1
                hashes[image.image_id] = hashlib.sha256(image.data).hexdigest()
                _check_image(image, hashes[image.image_id], unit, findings)
        except FileNotFoundError:
            findings.faults.append(f"{one_line(name)} is missing")
        except DamagedFileError as error:
            findings.faults.append(str(error))
    return hashes


def _check_image(image: _StoredImage, sha256: str, unit: str | None, findings: ExportFindings) -> None:
    """A signed image has other bytes than its row says: its manifest answers for them."""
    if unit == "image":
        if fault := fault_of(image.data, _extension_of(image.data)):
            findings.faults.append(f"{image.where}: {fault}")
        else:
            findings.num_signed += 1
    elif image.sha256 is not None and image.sha256 != sha256:
        findings.faults.append(f"{image.where} is not the image of its row: its SHA-256 differs")


def _check_hashes(dest: Storage, mark: Mark, hashes: dict[str, str], findings: ExportFindings) -> None:
    """Compare the images of a shard with its signed hashes."""
    listed: dict[str, str] = {}
    for name in (name for name in mark.names if name.endswith(".zip")):
        try:
            data = dest.read(name)
            fault = fault_of(data, "zip")
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                images = json.loads(archive.read(HASHES_FILE))["images"]
            root = tree_root([bytes.fromhex(one["sha256"]) for one in images])
            if not fault and assertion_of(data, "zip", SHARD_LABEL).get("sha256_tree_root") != root.hex():
                fault = "its manifest signs another hash tree"
        except FileNotFoundError:
            continue  # reported as missing
        except (zipfile.BadZipFile, ValueError, KeyError) as error:
            fault, images = f"it is damaged ({type(error).__name__})", []
        if fault:
            findings.faults.append(f"{name}: {fault}")
        else:
            findings.num_signed += 1
        listed |= {one["image_id"]: one["sha256"] for one in images}
    others = [image_id for image_id in listed.keys() | hashes.keys() if listed.get(image_id) != hashes.get(image_id)]
    findings.faults += [f"image {image_id} is not what its shard's manifest lists" for image_id in sorted(others)]


def _images_in(dest: Storage, name: str) -> Iterator[_StoredImage]:
    """The images in a file of an export; none in files of other kinds. Raises FileNotFoundError or DamagedFileError."""
    if name.endswith("/metadata.parquet"):
        yield from _images_of_folder(dest, name)
    elif name.endswith(".parquet"):
        with damage_errors(f"{dest.url}/{name}"):
            yield from _images_of_table(name, read_parquet(dest.read(name)))
    elif name.endswith(".tar"):
        with damage_errors(f"{dest.url}/{name}"):
            yield from _images_of_tar(name, dest.read(name))
    elif ".lance/data/" in name and dest.exists(name):
        yield from _images_of_table(name, read_fragment(dest, name))
    elif not dest.exists(name):
        raise FileNotFoundError(name)


def _images_of_folder(dest: Storage, name: str) -> Iterator[_StoredImage]:
    with damage_errors(f"{dest.url}/{name}"):
        rows = read_parquet(dest.read(name), ["file_name", "image_id", "image_sha256"]).to_pylist()
    for row in rows:
        where = f"{name.rpartition('/')[0]}/{row['file_name']}"
        try:
            data = dest.read(where)
        except FileNotFoundError:
            continue  # it is among the shard's own files, and reported there
        yield _StoredImage(where=where, image_id=row["image_id"], data=data, sha256=row["image_sha256"])


def _images_of_table(name: str, table: pa.Table) -> Iterator[_StoredImage]:
    for column, (id_column, hash_column) in _TABLE_COLUMNS.items():
        if column not in table.column_names or not _holds_images(table.schema.field(column).type):
            continue
        for row, value in enumerate(table[column]):
            data = value["bytes"].as_py() if pa.types.is_struct(value.type) else value.as_py()
            yield _StoredImage(
                where=f"{name}, row {row}, column {column}",
                image_id=table[id_column][row].as_py(),
                data=data,
                sha256=table[hash_column][row].as_py(),
            )


def _holds_images(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _images_of_tar(name: str, data: bytes) -> Iterator[_StoredImage]:
    """An image and the `.json` of its row share the name up to the first dot."""
    files: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            key, _, extension = member.name.partition(".")
            files.setdefault(key, {})[extension] = content.read() if content else b""
    for key, parts in files.items():
        row: dict[str, Any] = json.loads(parts.pop("json", b"{}"))
        for extension in parts.keys() - {"txt"}:
            yield _StoredImage(
                where=f"{name}#{key}.{extension}",
                image_id=row["image_id"],
                data=parts[extension],
                sha256=row.get("image_sha256"),
            )


def _extension_of(data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        return "png"
    return "jpg" if data.startswith(b"\xff\xd8") else "webp"
