"""The three layouts of images in storage: one file per image, or one webdataset tar or Parquet file per shard.

The manifest holds each image's location: a path relative to OUTPUT, followed by `#` and the member's name in a pack.
"""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workflows.storage.damage import damage_errors
from workflows.storage.parquet import read_parquet, typed_column
from workflows.storage.store import Storage

_ENTRY = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what Hugging Face `datasets` decodes
LAYOUTS = ("files", "webdataset", "parquet")


def location(layout: str, shard_id: str, image_id: str, extension: str) -> str:
    """The location of an image or of its latents, relative to OUTPUT."""
    if layout == "webdataset":
        # webdataset takes everything after the first dot of a name as the extension.
        return f"images/{shard_id}.tar#{_escape(image_id, '.')}.{extension}"
    if layout == "parquet":
        return f"images/{shard_id}.parquet#{image_id}.{extension}"
    # `#` separates a pack from its member, and `?` starts the version of an object in some URLs.
    return f"images/{shard_id}/{_escape(image_id, '#?')}.{extension}"


def _escape(image_id: str, characters: str) -> str:
    """The id with these characters, and % itself, written as %XX, so that different ids stay different."""
    return "".join(f"%{ord(c):02X}" if c in characters + "%" else c for c in image_id)


def files_of(rows: pa.Table) -> set[str]:
    """The files that the manifest's `rows` name as images and latents."""
    places = [place for name in ("image", "latents") for place in rows[name].to_pylist() if place]
    return {place.partition("#")[0] for place in places}


def read_image(storage: Storage, image: str) -> bytes:
    """The bytes of one image, given its location. Raises FileNotFoundError, or KeyError for a missing member."""
    file_name, _, member = image.partition("#")
    return read_pack(storage, file_name)[member] if member else storage.read(file_name)


def read_pack(storage: Storage, file_name: str) -> dict[str, bytes]:
    """All members of a tar or Parquet pack, by name. Raises FileNotFoundError or DamagedFileError."""
    data = storage.read(file_name)
    with damage_errors(file_name):
        return _tar_members(data) if file_name.endswith(".tar") else _image_table_members(data)


def write_pack(storage: Storage, layout: str, shard_id: str, packed: dict[str, bytes], manifest: pa.Table) -> pa.Table:
    """Store a shard's packed files, given by location, as one object. Does nothing for layout files, and for a shard
    without images, because some readers stop at a file without rows.

    Returns the manifest with the locations under which the object was stored (see `Storage.put_alongside`).
    """
    if layout == "files" or not manifest.num_rows:
        return manifest
    members = {location.partition("#")[2]: data for location, data in packed.items()}
    data = _tar_bytes(members, manifest) if layout == "webdataset" else _image_table_bytes(members, manifest)
    name = f"images/{shard_id}.{'tar' if layout == 'webdataset' else 'parquet'}"
    stored = storage.put_alongside(name, data)
    for column in ("image", "latents") if stored != name else ():
        renamed = pc.replace_substring(manifest[column], f"{name}#", f"{stored}#", max_replacements=1)
        position, field = manifest.schema.get_field_index(column), manifest.schema.field(column)
        manifest = manifest.set_column(position, field, renamed)
    return manifest


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file with a checksum for each page, so that damage is found when it is read."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _tar_members(data: bytes) -> dict[str, bytes]:
    """The plain files of an uncompressed tar. Links and sparse files are ignored: no pack of ours has any."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar if member.isfile() and not member.issparse())
        return {name: file.read() for name, file in files if file is not None}


def _image_table_members(data: bytes) -> dict[str, bytes]:
    """The images and latents of a Parquet pack. Raises ArrowInvalid if it has other columns."""
    table = read_parquet(data)
    if missing := {"image", "latents"}.difference(table.column_names):
        raise pa.ArrowInvalid(f"it has no column {min(missing)}")
    fields = [pa.field(name, _ENTRY) for name in ("image", "latents")]
    entries = [entry for field in fields for entry in typed_column(table, field).to_pylist() if entry]
    return {entry["path"]: entry["bytes"] for entry in entries if None not in entry.values()}


def _tar_bytes(members: dict[str, bytes], manifest: pa.Table) -> bytes:
    """A tar of each image, its latents and its prompt as `.txt`, in the manifest's order; without times, so that the
    bytes depend on the members alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in manifest.select(["prompt", "image", "latents"]).to_pylist():
            names = [location.partition("#")[2] for location in (row["image"], row["latents"]) if location]
            for name in names:
                _add_member(tar, name, members[name])
            _add_member(tar, names[0].rpartition(".")[0] + ".txt", row["prompt"].encode())
    return buffer.getvalue()


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _image_table_bytes(members: dict[str, bytes], manifest: pa.Table) -> bytes:
    """The images as a table with the struct column `image` (bytes, path) that Hugging Face `datasets` decodes."""

    def entry(location: str | None) -> dict[str, object] | None:
        if location is None:
            return None
        name = location.partition("#")[2]
        return {"bytes": members[name], "path": name}

    rows = [
        {**row, "image": entry(row["image"]), "latents": entry(row["latents"])}
        for row in manifest.select(["image_id", "prompt", "image", "latents"]).to_pylist()
    ]
    schema = pa.schema([("image_id", pa.string()), ("prompt", pa.string()), ("image", _ENTRY), ("latents", _ENTRY)])
    return parquet_bytes(pa.Table.from_pylist(rows, schema=schema))
