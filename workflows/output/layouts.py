"""The three layouts of images in storage: a file each, a webdataset tar a shard, or a Parquet file a shard.

Where an image stands is written in the manifest as a path relative to OUTPUT; a member of a pack follows a `#`.
"""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workflows.storage.damage import damage_errors
from workflows.storage.store import Storage

LAYOUTS = ("files", "webdataset", "parquet")


def location(layout: str, shard_id: str, image_id: str, extension: str) -> str:
    """Where a file of an image stands, relative to OUTPUT."""
    if layout == "webdataset":
        # webdataset takes what follows the first dot of a name for its extension.
        return f"images/{shard_id}.tar#{_escape(image_id, '.')}.{extension}"
    if layout == "parquet":
        return f"images/{shard_id}.parquet#{image_id}.{extension}"
    # `#` stands before the member of a pack, and object stores read versions out of what follows a `?`.
    return f"images/{shard_id}/{_escape(image_id, '#?')}.{extension}"


def _escape(image_id: str, characters: str) -> str:
    """The id with these characters, and % itself, as %XX: different ids stay different."""
    return "".join(f"%{ord(c):02X}" if c in characters + "%" else c for c in image_id)


def read_image(storage: Storage, place: str) -> bytes:
    """The bytes of one image file. Raises FileNotFoundError (no such file) or KeyError (no such member of a pack)."""
    file_name, _, member = place.partition("#")
    return read_pack(storage, file_name)[member] if member else storage.read(file_name)


def read_pack(storage: Storage, file_name: str) -> dict[str, bytes]:
    """All members of a tar or Parquet pack by name. Raises FileNotFoundError or DamagedFileError."""
    data = storage.read(file_name)
    with damage_errors(file_name):
        if file_name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                files = ((member.name, tar.extractfile(member)) for member in tar)
                return {name: file.read() for name, file in files if file is not None}
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    members = {entry["path"]: entry["bytes"] for entry in table["image"].to_pylist()}
    return members | {e["path"]: e["bytes"] for e in table["latents"].to_pylist() if e is not None}


def write_pack(storage: Storage, layout: str, shard_id: str, packed: dict[str, bytes], manifest: pa.Table) -> pa.Table:
    """Put a shard's packed files (by their locations) in place as one object; nothing to do for layout files.

    Returns the manifest, whose rows name the object by the name it got (see `Storage.put_alongside`).
    """
    if layout == "files":
        return manifest
    members = {place.partition("#")[2]: data for place, data in packed.items()}
    data = _tar_bytes(members, manifest) if layout == "webdataset" else _image_table_bytes(members, manifest)
    wanted = f"images/{shard_id}.{'tar' if layout == 'webdataset' else 'parquet'}"
    got = storage.put_alongside(wanted, data)
    for name in ("image", "latents") if got != wanted else ():
        renamed = pc.replace_substring(manifest[name], f"{wanted}#", f"{got}#", max_replacements=1)
        manifest = manifest.set_column(manifest.schema.get_field_index(name), manifest.schema.field(name), renamed)
    return manifest


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file with a checksum for each page, by which a damaged one is found."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _tar_bytes(members: dict[str, bytes], manifest: pa.Table) -> bytes:
    """Each image with its prompt as `.txt` beside it, in the manifest's order; no times, so the same bytes again."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in manifest.select(["prompt", "image", "latents"]).to_pylist():
            names = [place.partition("#")[2] for place in (row["image"], row["latents"]) if place]
            for name in names:
                _add_member(tar, name, members[name])
            _add_member(tar, names[0].rpartition(".")[0] + ".txt", row["prompt"].encode())
    return buffer.getvalue()


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _image_table_bytes(members: dict[str, bytes], manifest: pa.Table) -> bytes:
    """The images as a table with the `image` struct (bytes, path) that Hugging Face `datasets` decodes."""

    def entry(place: str | None) -> dict[str, object] | None:
        return None if place is None else {"bytes": members[place.partition("#")[2]], "path": place.partition("#")[2]}

    rows = [
        {**row, "image": entry(row["image"]), "latents": entry(row["latents"])}
        for row in manifest.select(["image_id", "prompt", "image", "latents"]).to_pylist()
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image_id", pa.string()), ("prompt", pa.string()), ("image", kind), ("latents", kind)])
    return parquet_bytes(pa.Table.from_pylist(rows, schema=schema))
