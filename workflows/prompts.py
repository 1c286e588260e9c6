"""Prompt files: find them, check their columns from the footers, and read ranges of their rows."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import InputError
from workflows.storage.damage import damage_errors
from workflows.storage.errors import storage_errors
from workflows.storage.parquet import read_row_group
from workflows.storage.path import is_uploaded
from workflows.storage.store import open_url

NUM_FOOTER_READERS = 16  # threads: on object storage each footer takes one or two round trips
FOOTER_BYTES = 64 * 1024


class PromptsError(InputError):
    """Prompt files that a job cannot use: none match, a column is missing or has the wrong type, or a file changed
    after the job was planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFile:
    """One Parquet file of prompts, as its footer and its storage describe it.

    `url` opens the file, `name` is its path below the prompt folder. `version` is a hash of the size and of the ETag
    (object stores) or modification time (local disks): it changes when the content may have changed.
    """

    url: str
    name: str
    version: str
    num_bytes: int
    num_rows: int


def find_prompt_files(
    prompts: str, storage: dict[str, Any], *, ignored_columns: Iterable[str] = ()
) -> list[PromptFile]:
    """The Parquet files that `prompts` (a file, a glob or a folder) selects, in the order of their names.

    Reads the footers only. `ignored_columns` may have any type. Raises PromptsError, DamagedFileError or StorageError
    naming the file at fault.
    """
    fs, root = open_url(prompts, storage, is_first_contact=True)
    with storage_errors(prompts):
        fs.invalidate_cache()
        folder, infos = _matching_files(fs, root)
    if not infos:
        raise PromptsError(f"prompts: no Parquet files match {prompts} (a .parquet file, a glob, or a folder of them)")
    with ThreadPoolExecutor(NUM_FOOTER_READERS) as readers:
        return list(readers.map(lambda info: _read_footer(fs, folder, info, set(ignored_columns)), infos))


def read_rows(file: PromptFile, start: int, stop: int, storage: dict[str, Any]) -> pa.Table:
    """All columns of rows `start` to `stop` of a prompt file. Raises PromptsError if the file has changed."""
    options, offset, parts = json.dumps(storage, sort_keys=True), 0, []
    with damage_errors(f"prompts: rows {start} to {stop} of {file.url}"):
        footer = _open_footer(file.url, file.version, options)
        for group in range(footer.num_row_groups):
            num_rows = footer.row_group(group).num_rows
            begin, end = max(start - offset, 0), min(stop - offset, num_rows)
            if begin < end:
                table = _read_row_group(file.url, file.version, options, group).slice(begin, end - begin)
                # Copied: Ray would ship a slice together with its whole row group.
                parts.append(table.take(pa.array(range(end - begin), pa.int64())))
            offset += num_rows
        return pa.concat_tables(parts)


def _matching_files(fs: fsspec.AbstractFileSystem, root: str) -> tuple[str, list[dict[str, Any]]]:
    """The folder to which names are relative, and fsspec's info for each matching file."""
    info = _info(fs, root)  # a name that exists is taken literally, whatever characters are in it
    if info is None and glob.has_magic(root):
        found = {path: info for path, info in fs.glob(root, detail=True).items() if info["type"] == "file"}
        folder = root[: root.index(next(c for c in root if c in "*?["))].rpartition("/")[0]
        if not _is_hidden(root[len(folder) :]):  # as in a shell, hidden files must be asked for
            found = {path: info for path, info in found.items() if not _is_hidden(path[len(folder) :])}
    elif info is not None and info["type"] == "file":
        found, folder = {root: info}, root.rpartition("/")[0]
    else:
        found, folder = fs.find(root, detail=True), root.rstrip("/")
        names = (path for path in found if path.endswith(".parquet") and not _is_hidden(path[len(folder) :]))
        found = {path: found[path] for path in names}
    return folder, [found[path] for path in sorted(found)]


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """fsspec's info for a path, None if it does not exist. Unlike `fs.isfile`, other errors are raised."""
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except FileNotFoundError:
        return None


def _is_hidden(name: str) -> bool:
    """Whether a path names a marker or a temporary file of another writer, such as Spark's `_SUCCESS`."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def _read_footer(
    fs: fsspec.AbstractFileSystem, folder: str, info: dict[str, Any], ignored_columns: set[str]
) -> PromptFile:
    url = fs.unstrip_protocol(info["name"])
    cache = _footer_cache(fs)
    with storage_errors(url), damage_errors(f"prompts: {url}"), fs.open(info["name"], "rb", **cache) as file:
        metadata = pq.read_metadata(file)
    _check_columns(url, metadata.schema.to_arrow_schema(), ignored_columns)
    return PromptFile(
        url=url,
        name=info["name"][len(folder) :].lstrip("/"),
        version=_version_of(info),
        num_bytes=info["size"],
        num_rows=metadata.num_rows,
    )


def _version_of(info: dict[str, Any]) -> str:
    """8 hex digits that change when the file may have changed."""
    mark = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    if is_uploaded(info["name"]):  # unpacked again, an uploaded file has another time
        mark = _content_hash(info["name"], info["size"], info["mtime"])
    return hashlib.sha256(f"{info['size']}|{mark}".encode()).hexdigest()[:8]


@functools.lru_cache(maxsize=1024)
def _content_hash(path: str, size: int, mtime: float) -> str:
    """Of a small local file; an upload has 100 MiB at most."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _footer_cache(fs: fsspec.AbstractFileSystem) -> dict[str, Any]:
    """Options to read the tail of a remote file in one small request instead of a block of many megabytes."""
    return {} if "file" in fs.protocol else {"cache_type": "readahead", "block_size": FOOTER_BYTES}


# ---- columns -------------------------------------------------------------------------------------------------------


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


# The columns that a job reads: a check of the Arrow type, and the allowed types in words.
COLUMN_TYPES = {
    "prompt": (_is_text, "text"),
    "id": (lambda kind: _is_text(kind) or pa.types.is_integer(kind), "text or whole numbers"),
    "negative_prompt": (_is_text, "text"),
    "seed": (_is_number, "whole numbers"),
    "image_seed": (_is_number, "whole numbers"),
    "cfg_weight": (_is_number, "numbers"),
    "temperature": (_is_number, "numbers"),
    "num_inference_steps": (_is_number, "whole numbers"),
}


def _check_columns(url: str, schema: pa.Schema, ignored_columns: set[str]) -> None:
    """Raise PromptsError unless `prompt` exists, no name occurs twice and every column read has an allowed type."""
    if "prompt" not in schema.names:
        raise PromptsError(f"prompts: {url} has no column `prompt`; its columns are {', '.join(schema.names)}")
    for name, count in Counter(schema.names).items():
        if count > 1:
            raise PromptsError(f"prompts: {url} has {count} columns `{name}`; names must be unique")
    for name, (is_allowed, allowed) in COLUMN_TYPES.items():
        if name not in schema.names or name in ignored_columns:
            continue
        kind = schema.field(name).type
        # A column that holds only nulls has Arrow's null type; every row then uses the job's value.
        if not is_allowed(kind) and not pa.types.is_null(kind):
            raise PromptsError(f"prompts: column `{name}` of {url} must hold {allowed}, it holds {kind}")


# ---- reading rows --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _open_footer(url: str, version: str, options: str) -> pq.FileMetaData:
    with _open_planned(url, version, options) as file:
        return pq.read_metadata(file)


@functools.lru_cache(maxsize=2)
def _read_row_group(url: str, version: str, options: str, group: int) -> pa.Table:
    """One row group, cached for the next shards: a row group often holds many of them."""
    with _open_planned(url, version, options) as file:
        table = read_row_group(file, group)
    # Arrow cannot `take` from string views yet.
    kinds = [pa.large_string() if pa.types.is_string_view(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))


@contextmanager
def _open_planned(url: str, version: str, options: str) -> Iterator[IO[bytes]]:
    """The prompt file, if it has not changed since it was planned. `options` are the storage options as JSON."""
    fs, path = open_url(url, json.loads(options))
    fs.invalidate_cache()
    found = _version_of(fs.info(path))
    if found != version:
        raise PromptsError(f"prompts: {url} was changed after this job was planned (version {version}, now {found})")
    with fs.open(path, "rb") as file:
        yield file
