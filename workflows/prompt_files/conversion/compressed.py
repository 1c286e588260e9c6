"""Compressed text as a stream of plain bytes, and one sentence for a file that is damaged or not compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa

from workflows.prompt_files.file import PromptsError
from workflows.storage.damage import DamagedFileError


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))  # read in the caller's thread


# By fsspec's names: how a file begins, and what opens it.
_KINDS: dict[str, tuple[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    "gzip": (b"\x1f\x8b", gzip.open),  # type: ignore[dict-item]
    "bz2": (b"BZh", bz2.open),
    "xz": (b"\xfd7zXZ", lzma.open),
    "zstd": (b"\x28\xb5\x2f\xfd", _open_zstd),
}
# What Python and Arrow say in an OSError about data that they cannot decompress; other OSErrors are of storage.
_FAULTS = ("Invalid data stream", "Truncated compressed stream", "ZSTD decompress failed")


def opened(file: io.BufferedReader, compression: str | None, url: str) -> IO[bytes]:
    """The plain bytes of a file. Raises PromptsError if it is not compressed as its name says; no bytes are none."""
    if compression is None or not file.peek(1):
        return file
    magic, open_stream = _KINDS[compression]
    if file.peek(len(magic))[: len(magic)] != magic:
        raise PromptsError(f"prompts: the name of {url} says {compression}, and the file is not compressed that way")
    return open_stream(file)


@contextmanager
def damage_of(url: str) -> Iterator[None]:
    """Turn the errors of decompression into a DamagedFileError."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        is_of_data = isinstance(error, gzip.BadGzipFile) or str(error).startswith(_FAULTS)
        if isinstance(error, OSError) and (error.errno is not None or not is_of_data):
            raise
        raise DamagedFileError(f"prompts: {url} cannot be read: the compressed file is damaged ({error})") from error
