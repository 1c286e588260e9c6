"""The numbered lines of a text file, compressed or not. One line is in memory at a time, and its size has a limit."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TypeVar

import fsspec

from workflows.prompt_files.file import PromptsError
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import storage_errors
from workflows.storage.foreign import foreign_kind

MAX_LINE_BYTES = 16 * 2**20  # no prompt is as long; a file may still consist of one line of many gigabytes
CHUNK_ROWS, CHUNK_CHARACTERS = 20_000, 4 * 2**20  # rows that are in memory together
_OTHER_KINDS = re.compile(rb"\x1f\x8b|PK\x03\x04|PAR1|BZh|\x28\xb5\x2f\xfd|\xfd7zXZ|ARROW1|\xff\xff\xff\xff")
_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}  # type: ignore[dict-item]

Lines = Callable[[], AbstractContextManager[Iterator[tuple[int, str]]]]  # opens the file and numbers its lines from 1
T = TypeVar("T")


@contextmanager
def numbered_lines(
    fs: fsspec.AbstractFileSystem, path: str, url: str, compression: str | None
) -> Iterator[Iterator[tuple[int, str]]]:
    """The lines with their ends and numbers. Raises PromptsError for text that is not UTF-8 or a line that is too long,
    DamagedFileError for a compressed file that is damaged, and StorageError.
    """
    with storage_errors(url):
        file = fs.open(path, "rb")
    with file, io.BufferedReader(file) as buffered:  # readline of remote files has no limit
        yield _decoded(buffered if compression is None else _OPENERS[compression](buffered), url)


def _decoded(stream: IO[bytes], url: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_raw_lines(stream, url), 1):
        if number == 1:
            if _OTHER_KINDS.match(line):
                kind = foreign_kind(line) or "a Parquet file"
                raise PromptsError(f"prompts: {url} is {kind}, and its name says text; name it after its format")
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise PromptsError(f"prompts: {url} is UTF-16 text; save it as UTF-8")
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE_BYTES:
            raise PromptsError(
                f"prompts: line {number:,} of {url} is too long; a line may have {MAX_LINE_BYTES:,} bytes"
            )
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise PromptsError(
                f"prompts: line {number:,} of {url} is not UTF-8 text (byte 0x{line[error.start]:02X}); save the file "
                "as UTF-8"
            ) from error


def _raw_lines(stream: IO[bytes], url: str) -> Iterator[bytes]:
    with storage_errors(url):
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                yield line
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DamagedFileError(
                f"prompts: {url} cannot be read: the compressed file is damaged ({error})"
            ) from error


def chunked(rows: Iterable[T], num_characters: Callable[[T], int]) -> Iterator[list[T]]:
    """The rows in lists that are small enough for memory."""
    chunk: list[T] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += num_characters(row)
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
