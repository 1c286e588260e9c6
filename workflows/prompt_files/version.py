"""The version of a prompt file: 8 hex digits that change when its content may have changed."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import fsspec

WHOLE_BYTES = 4 * 2**20  # a file up to this size is read as a whole
NUM_PIECES, PIECE_BYTES = 64, 64 * 1024  # of a larger file, evenly spread; the last one holds the footer


def version_of(
    fs: fsspec.AbstractFileSystem, info: dict[str, Any], *, is_text: bool = False, num_bytes: int | None = None
) -> str:
    """A hash of the size and of the store's own hash or tag of the content, if it has one, or of the content itself.

    Of a large file some pieces are read. They include the footer of a Parquet file, which changes with its pages. Text
    (`is_text`) has nothing of the kind and is read as a whole, or its first `num_bytes`.

    The modification time does not count: copies, `git` and image builds set it, and change no byte.
    """
    size, mark = info["size"], _mark_of(info)
    if mark is None:
        num_bytes = size if num_bytes is None else min(num_bytes, size)
        mark = _content_hash(fs, info["name"], size, str(info.get("mtime")), info.get("ino"), is_text, num_bytes)
    return hashlib.sha256(f"{size}|{mark}".encode()).hexdigest()[:8]


def stamp_of(info: dict[str, Any]) -> tuple[object, ...]:
    """What differs between two moments if a file was written between them."""
    return info["size"], info.get("mtime"), info.get("ino"), _mark_of(info)


def _mark_of(info: dict[str, Any]) -> str | None:
    """An object store's hash of the content or, where it has none, its tag of the upload."""
    # blob_id: the hub, md5Hash: Google
    content_md5 = (info.get("content_settings") or {}).get("content_md5")  # Azure
    for mark in (info.get("blob_id"), info.get("md5Hash"), content_md5, info.get("ETag"), info.get("etag")):
        if mark:
            return str(mark)
    return None


@functools.lru_cache(maxsize=10_000)
def _content_hash(
    fs: fsspec.AbstractFileSystem, path: str, size: int, mtime: str, inode: int | None, is_text: bool, num_bytes: int
) -> str:
    """SHA-256 of the content, or of pieces of a large file. `mtime` and `inode` tell the cache when to look again."""
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        if size <= WHOLE_BYTES or is_text:
            while block := file.read(min(WHOLE_BYTES, num_bytes)):
                digest.update(block)
                num_bytes -= len(block)
        else:
            for piece in range(NUM_PIECES):
                file.seek((size - PIECE_BYTES) * piece // (NUM_PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()
