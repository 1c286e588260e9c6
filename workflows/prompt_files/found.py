"""One file of a listing, described from its footer: its rows, and its columns by the names that the job uses."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from actors.errors import one_line
from workflows.job import PromptReading
from workflows.prompt_files.column_types import plain_type
from workflows.prompt_files.columns import (
    Columns,
    carried_columns,
    check_columns,
    check_names,
    column_types,
    hive_type,
    job_names,
    likely_prompts,
    plain_columns,
    setting,
    sounds_like_prompts,
)
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.footer import TAIL_BYTES, Footer, read_footer
from workflows.prompt_files.version import version_of
from workflows.storage.errors import storage_errors
from workflows.storage.store import open_url

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive, Spark and Arrow write null in a folder's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file of a listing: its URL, its name below the prompt folder, its version and the footer of its rows.

    `converted`: the Parquet file that has the rows, if the file itself is none. `renamed`, `reads_images` and `is_cut`:
    as in a `PromptFile`.
    """

    url: str
    name: str
    version: str
    num_bytes: int
    footer: Footer
    converted: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    reads_images: bool = False
    is_cut: bool = False

    @property
    def hive_values(self) -> tuple[tuple[str, str | None], ...]:
        """The `key=value` folders of its name, by the job's names; a column of the file itself goes first."""
        pairs, own = _partitions(self.name), job_names(self.footer.schema.names, self.renamed)
        names = job_names(list(pairs), self.renamed)
        return tuple((name, pairs[key]) for name, key in names.items() if name not in own)


def describe(fs: fsspec.AbstractFileSystem, folder: str, info: dict[str, Any], reading: PromptReading) -> Found:
    """A Parquet file, from its footer. Raises PromptsError, DamagedFileError or StorageError."""
    url = fs.unstrip_protocol(info["name"])
    check_is_file(url, info)
    with storage_errors(url), fs.open(info["name"], "rb", **_footer_cache(fs)) as file:
        footer = read_footer(url, file, info["size"], reading)
        _check_ranges(fs, url, info["name"])
        return _found(url, name_of(info, folder), version_of(fs, info), info, footer, reading)


def describe_converted(
    fs: fsspec.AbstractFileSystem,
    folder: str,
    info: dict[str, Any],
    reading: PromptReading,
    *,
    version: str,
    converted: str,
    options: dict[str, Any],
) -> Found:
    """A file of another format, from the footer of the Parquet file that has its rows."""
    url = fs.unstrip_protocol(info["name"])
    rows_fs, path = open_url(converted, options)
    with storage_errors(converted), rows_fs.open(path, "rb") as file:
        footer = read_footer(url, file, rows_fs.size(path), reading)
    return _found(url, name_of(info, folder), version, info, footer, reading, converted)


def check_is_file(url: str, info: dict[str, Any]) -> None:
    if info["type"] != "file":  # opening a FIFO waits for a writer
        raise PromptsError(f"prompts: {url} is a pipe, a socket, a device or a broken link; prompts are files")
    if info["size"] is None:
        raise PromptsError(f"prompts: the web server does not say how large {url} is; download the file first")


def _check_ranges(fs: fsspec.AbstractFileSystem, url: str, path: str) -> None:
    """Raise PromptsError for a web server that sends whole files only: Parquet is read from the middle."""
    if "http" in fs.protocol and len(fs.cat_file(path, 1, 3)) != 2:
        raise PromptsError(
            f"prompts: the web server of {url} sends no parts of files (HTTP ranges), which Parquet needs; download "
            "the file first"
        )


def name_of(info: dict[str, Any], folder: str) -> str:
    """The name of a file below the prompt folder."""
    return str(info["name"][len(folder) :].lstrip("/"))


def hive_columns(files: Sequence[Found]) -> dict[str, pa.DataType]:
    """The columns that the names of folders set, with one type each."""
    values: dict[str, list[str | None]] = {}
    for file in files:
        for key, value in file.hive_values:
            values.setdefault(key, []).append(value)
    return {key: hive_type(key, found) for key, found in values.items()}


def read_columns(file: Found, hive: dict[str, pa.DataType]) -> pa.Schema:
    """The columns of a file and of its folders' names that the job reads, in plain types."""
    names = job_names(file.footer.schema.names, file.renamed)
    fields = [pa.field(name, plain_type(file.footer.schema.field(key).type)) for name, key in names.items()]
    partitions = [pa.field(key, hive[key]) for key, _ in file.hive_values]
    known = column_types(reads_images=file.reads_images)
    return pa.schema([field for field in [*fields, *partitions] if field.name in known])


def checked_columns(file: Found, hive: dict[str, pa.DataType], ignored_columns: set[str]) -> Columns:
    """The carried columns of a file and of its folders' names. Raises PromptsError for a column that is not allowed."""
    written = file.footer.schema
    check_names(file.url, written)
    names = job_names(written.names, file.renamed)
    fields = [pa.field(name, written.field(key).type) for name, key in names.items()]
    schema = pa.schema([*fields, *(pa.field(key, hive[key]) for key, _ in file.hive_values)])
    check_columns(file.url, schema, ignored_columns, reads_images=file.reads_images)
    extents = {name: file.footer.extents[key] for name, key in names.items() if key in file.footer.extents}
    return plain_columns(file.url, schema, extents, reads_images=file.reads_images)


def check_table(name: str, data: bytes, reading: PromptReading, ignored_columns: Iterable[str]) -> None:
    """Hold the bytes of a Parquet file against the rules for prompt files, before it is one. Raises PromptsError."""
    footer = read_footer(name, io.BytesIO(data), len(data), reading)
    file = _found(name, name, "", {"size": len(data)}, footer, reading)
    carried_columns([checked_columns(file, {}, set(ignored_columns))])


def _found(
    url: str,
    name: str,
    version: str,
    info: dict[str, Any],
    footer: Footer,
    reading: PromptReading,
    converted: str = "",
) -> Found:
    return Found(
        url=url,
        name=name,
        version=version,
        num_bytes=info["size"],
        footer=footer,
        converted=converted,
        renamed=_renamed(url, footer.schema, _partitions(name), reading),
        reads_images=reading.reads_images,
    )


def _renamed(
    url: str, schema: pa.Schema, partitions: dict[str, str | None], reading: PromptReading
) -> tuple[tuple[str, str], ...]:
    """The columns that the job calls otherwise. Raises PromptsError if the file does not have one."""
    columns, found = reading.names_in_files(reading.columns), {*schema.names, *partitions}
    unread = [(name, f"original_{name}") for name in reading.columns if name not in columns and name in found]
    for name, carried in unread:
        if carried in found:
            raise PromptsError(
                f"prompts: {url} has a column `{carried}`, the name under which its `{name}` would be carried with "
                f"columns.{name}: null"
            )
    for name, written in columns.items():
        if written not in found:
            key = "prompt_column" if name == "prompt" else f"columns.{name}"
            alike = [column for column in schema.names if column.lower() == written.lower()]
            if name == "prompt" and (likely := likely_prompts(schema)) and sounds_like_prompts(likely):
                alike.append(likely)
            advice = f"; did you mean `--set {setting(key, alike[0])}`?" if alike else ""
            raise PromptsError(
                f"prompts: {url} has no column `{one_line(written)}`, which {key} names; its columns are "
                f"{one_line(', '.join(schema.names))}{advice}"
            )
    return (*((written, name) for name, written in columns.items() if written != name), *unread)


def _partitions(name: str) -> dict[str, str | None]:
    """The `key=value` folders of a file's name; None is null. Raises PromptsError for a key with two values."""
    pairs: dict[str, str | None] = {}
    for part in name.split("/")[:-1]:
        key, sign, written = part.partition("=")
        if sign and key:
            key, value = unquote(key), None if written == NULL_PARTITION else unquote(written)
            if pairs.setdefault(key, value) != value:
                raise PromptsError(f"prompts: the folders of {one_line(name)} set `{one_line(key)}` to two values")
    return pairs


def _footer_cache(fs: fsspec.AbstractFileSystem) -> dict[str, Any]:
    """Options to read the tail of a remote file in one small request instead of a block of many megabytes."""
    return {} if "file" in fs.protocol else {"cache_type": "readahead", "block_size": TAIL_BYTES}
