"""Finds the Parquet files with the rows of prompt files in another format, which an output keeps, or makes them.

With a `limit` and no other selection, files are read up to the last row that it asks for, and the files after it are
not read. The version of such a file is a hash of its size and of the bytes that were read, and the name of the Parquet
file has their number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import fsspec

from workflows.job import PromptReading
from workflows.prompt_files.columns import LOOK_TEXT_COLUMNS, NUMBERS, TEXT_COLUMNS, column_types
from workflows.prompt_files.conversion.convert import Source, convert
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.found import Found, check_is_file, describe_converted, name_of
from workflows.prompt_files.ids import safe_stem
from workflows.prompt_files.kept import KeptFiles
from workflows.prompt_files.version import stamp_of, version_of
from workflows.storage.errors import storage_errors

LARGE_BYTES, LARGE_ROWS = 8 * 2**20, 100_000  # of a file whose conversion takes seconds
READ_BYTES = 2**20  # the number of bytes that were read is rounded up, as buffers may have other sizes one day


def converted_files(
    fs: fsspec.AbstractFileSystem,
    folder: str,
    infos: Sequence[dict[str, Any]],
    reading: PromptReading,
    kept: KeptFiles,
    storage: dict[str, Any],
    *,
    ignored_columns: Collection[str],
) -> list[Found]:
    """The files with their rows as Parquet. `ignored_columns` may have any type.

    Raises PromptsError, DamagedFileError or StorageError.
    """
    found: list[Found] = []
    left = reading.limit if reading.takes_first_rows else None
    for info in infos:
        if left == 0:
            break
        url, name = fs.unstrip_protocol(info["name"]), name_of(info, folder)
        check_is_file(url, info)
        source = Source(
            fs=fs,
            path=info["name"],
            url=url,
            reading=reading,
            num_rows=left,
            text_columns=_text_columns(reading),
            number_columns=_number_columns(reading, ignored_columns),
        )
        version, converted = (_whole if left is None else _first_rows)(source, info, name, kept)
        file = describe_converted(fs, folder, info, reading, version=version, converted=converted, options=storage)
        if left is not None:
            left -= file.footer.num_rows
            file = dataclasses.replace(file, is_cut=left == 0)
        found.append(file)
    return found


def _whole(source: Source, info: dict[str, Any], name: str, kept: KeptFiles) -> tuple[str, str]:
    """The version of a file, and the URL of the Parquet file with all of its rows."""
    with storage_errors(source.url):
        version = version_of(source.fs, info, is_text=True)

    def make(target: str) -> None:
        convert(source, target)
        _check_is_unchanged(source, info)

    return version, kept.find_or_make(
        f"{_stem(name)}-{version}-{_settings(source)}.parquet", make, _step(source, info, name)
    )


def _first_rows(source: Source, info: dict[str, Any], name: str, kept: KeptFiles) -> tuple[str, str]:
    """The version of the beginning of a file, and the URL of the Parquet file with its first rows."""
    version, stem, settings = "", _stem(name), _settings(source)

    def version_to(num_bytes: int) -> str:
        with storage_errors(source.url):
            return version_of(source.fs, info, is_text=True, num_bytes=num_bytes)

    for url in kept.find(f"{stem}-*-{settings}-*.parquet"):
        num_bytes = int(url.removesuffix(".parquet").rpartition("-")[2])
        version = version_to(num_bytes)
        if url.endswith(f"/{stem}-{version}-{settings}-{num_bytes}.parquet"):
            return version, url

    def make(target: str) -> str:
        nonlocal version
        num_bytes = min(-(-convert(source, target) // READ_BYTES) * READ_BYTES, info["size"])
        _check_is_unchanged(source, info)
        version = version_to(num_bytes)
        return f"{stem}-{version}-{settings}-{num_bytes}.parquet"

    converted = kept.make(make, _step(source, info, name))
    return version, converted


def _step(source: Source, info: dict[str, Any], name: str) -> str:
    """What a conversion is called that takes seconds; empty for others."""
    is_large = info["size"] >= LARGE_BYTES and (source.num_rows is None or source.num_rows >= LARGE_ROWS)
    return f"converting {name} to Parquet" if is_large else ""


def _check_is_unchanged(source: Source, info: dict[str, Any]) -> None:
    with storage_errors(source.url):
        source.fs.invalidate_cache()
        if stamp_of(source.fs.info(source.path)) != stamp_of(info):
            raise PromptsError(f"prompts: {source.url} was changed while it was read; run the command again")


def _text_columns(reading: PromptReading) -> list[str]:
    names = LOOK_TEXT_COLUMNS if reading.reads_images else TEXT_COLUMNS
    return [*reading.names_in_files(names).values()]


def _number_columns(reading: PromptReading, ignored_columns: Collection[str]) -> dict[str, str]:
    known = column_types(reads_images=reading.reads_images)
    names = [name for name, (_, allowed) in known.items() if allowed in NUMBERS and name not in ignored_columns]
    return {written: known[name][1] for name, written in reading.names_in_files(names).items()}


def _settings(source: Source) -> str:
    """A hash of what decides which rows and types a file has."""
    how = [source.reading.csv_delimiter, source.reading.csv_header, source.text_columns]
    return _digest(json.dumps(how if source.num_rows is None else [*how, source.num_rows]))


def _stem(name: str) -> str:
    """What the name of a Parquet file begins with, for a prompt file of this name."""
    return f"{safe_stem(name)}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
