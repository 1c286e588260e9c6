"""The numbered lines of a text file, compressed or not. One line is in memory at a time, and its size has a limit."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

import fsspec

from workflows.prompt_files.conversion.compressed import damage_of, opened
from workflows.prompt_files.file import PromptsError
from workflows.storage.errors import storage_errors
from workflows.storage.foreign import foreign_kind

MAX_LINE_BYTES = 16 * 2**20  # no prompt is as long; a file may still consist of one line of many gigabytes
# Compressed files of a few kilobytes may hold billions of lines. A line counts as `LINE_BYTES` or more of the
# `FREE_BYTES` that any file may have, and of `MAX_RATIO` bytes for each byte that is compressed.
LINE_BYTES, FREE_BYTES, MAX_RATIO = 64, 64 * 2**20, 1000
CHUNK_ROWS, CHUNK_CHARACTERS = 20_000, 4 * 2**20  # rows that are in memory together
_OTHER_KINDS = re.compile(rb"\x1f\x8b|PK\x03\x04|PAR1|BZh|\x28\xb5\x2f\xfd|\xfd7zXZ|ARROW1|\xff\xff\xff\xff")
_POINTER_OR_PAGE = re.compile(rb"version https://git-lfs|\s*<(!doctype|html|\?xml)", re.IGNORECASE)
_RETURN_ALONE = re.compile(rb"\r(?![\r\n])")  # between other characters

REMEDY = 'save the file as UTF-8 (in Excel: "CSV UTF-8"), or convert it (iconv -f ENCODING -t UTF-8)'

T = TypeVar("T")


class TextFile:
    """A text file that is read from its beginning, once or more often.

    `num_bytes_read`: how far into the file, as it is stored, the last reading came. That is a little more than its
    lines need.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, url: str, compression: str | None) -> None:
        self._fs, self._path, self._url, self._compression = fs, path, url, compression
        self.num_bytes_read = 0

    @contextmanager
    def lines(self) -> Iterator[Iterator[tuple[int, str]]]:
        """The lines with their numbers from 1 and with their ends. Raises PromptsError for text that is not UTF-8, a
        line that is too long, and far more text than there are compressed bytes, DamagedFileError for a compressed file
        that is damaged, and StorageError.
        """
        with storage_errors(self._url):
            file = self._fs.open(self._path, "rb")
        with file, io.BufferedReader(file) as buffered:  # readline of remote files has no limit
            with storage_errors(self._url):
                stream = opened(buffered, self._compression, self._url)
            lines = _raw_lines(stream, self._url)
            yield _decoded(_bounded(lines, file.tell, self._url) if self._compression else lines, self._url)
            self.num_bytes_read = file.tell()


def _decoded(lines: Iterator[bytes], url: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            _check_first(line, url)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE_BYTES:
            raise PromptsError(
                f"prompts: line {number:,} of {url} is too long; a line may have {MAX_LINE_BYTES:,} bytes"
            )
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise PromptsError(
                f"prompts: line {number:,} of {url} is not UTF-8 text (byte 0x{line[error.start]:02X}); {REMEDY}"
            ) from error


def _check_first(line: bytes, url: str) -> None:
    """Raise PromptsError if the first line shows that the file is something else than lines of UTF-8."""
    if _OTHER_KINDS.match(line):
        kind = foreign_kind(line) or "a Parquet file"
        raise PromptsError(f"prompts: {url} is {kind}, and its name says text; name it after its format")
    if _POINTER_OR_PAGE.match(line.removeprefix(codecs.BOM_UTF8)):
        raise PromptsError(f"prompts: {url} is {foreign_kind(line.removeprefix(codecs.BOM_UTF8))}")
    is_wide = b"\0\0" in (line[0:4:2], line[1:4:2])  # every other byte of ASCII
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or is_wide:
        raise PromptsError(f"prompts: {url} is UTF-16 text; {REMEDY}")
    if _RETURN_ALONE.search(line):
        raise PromptsError(
            f"prompts: the lines of {url} end with carriage returns (\\r) alone; save it with line feeds (\\n)"
        )


def _raw_lines(stream: IO[bytes], url: str) -> Iterator[bytes]:
    with storage_errors(url), damage_of(url):
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line


def _bounded(lines: Iterator[bytes], num_bytes_read: Callable[[], int], url: str) -> Iterator[bytes]:
    """The lines of a compressed file. Raises PromptsError where they are far more than its bytes."""
    num_bytes, counted, allowed = 0, 0, allowed_bytes(0)
    for number, line in enumerate(lines, 1):
        num_bytes += len(line)
        counted += max(len(line), LINE_BYTES)
        if counted > allowed and counted > (allowed := allowed_bytes(num_bytes_read())):
            raise PromptsError(
                f"prompts: the first {num_bytes_read():,} bytes of {url} decompress to {number:,} lines of "
                f"{num_bytes:,} bytes, which is hardly a list of prompts; if it is one, decompress the file first"
            )
        yield line


def allowed_bytes(num_compressed: int) -> int:
    """The most bytes that this many compressed ones may have."""
    return FREE_BYTES + MAX_RATIO * num_compressed


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
