"""Lists the prompt files that a file, a folder or a glob selects, and describes each from its footer."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from workflows.prompt_files.columns import Columns, check_columns, hive_type, plain_columns
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.footer import TAIL_BYTES, Footer, read_footer
from workflows.prompt_files.version import version_of
from workflows.storage.errors import storage_errors

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive, Spark and Arrow write null in a folder's name

# What a table format keeps in its folder, next to data files of which some are removed rows.
TABLE_FORMATS = (
    (re.compile(r"(^|/)_delta_log/"), "a Delta", "`DeltaTable(...).to_pyarrow_table()`"),
    (re.compile(r"(^|/)metadata/[^/]*\.metadata\.json$"), "an Iceberg", "`Table.scan().to_arrow()`"),
    (re.compile(r"(^|/)\.hoodie/"), "a Hudi", "`SELECT * FROM ...`"),
)
TABLE_FOLDERS = ("_delta_log", "metadata", ".hoodie")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file of a listing: its URL, its name below the prompt folder, its version and its footer."""

    url: str
    name: str
    version: str
    num_bytes: int
    footer: Footer

    @property
    def hive_values(self) -> tuple[tuple[str, str | None], ...]:
        """The `key=value` folders of its name; a column of the file itself goes first."""
        parts = [part.partition("=") for part in self.name.split("/")[:-1] if "=" in part]
        pairs = {unquote(key): None if value == NULL_PARTITION else unquote(value) for key, _, value in parts}
        return tuple((key, value) for key, value in pairs.items() if key and key not in self.footer.schema.names)


def matching_files(fs: fsspec.AbstractFileSystem, root: str) -> tuple[str, list[dict[str, Any]]]:
    """The folder to which names are relative, and fsspec's info for each matching file."""
    info = _info(fs, root)  # a name that exists is taken literally, whatever characters are in it
    if info is None and glob.has_magic(root):
        matches = fs.glob(root, detail=True)
        found = {path: info for path, info in matches.items() if info["type"] != "directory"}
        folder = root[: root.index(next(c for c in root if c in "*?["))].rpartition("/")[0]
        if not _is_hidden(root[len(folder) :]):  # as in a shell, hidden files must be asked for
            found = {path: info for path, info in found.items() if not _is_hidden(path[len(folder) :])}
        _refuse_table_formats(folder, [path for name in TABLE_FOLDERS for path in fs.find(f"{folder}/{name}", 1)])
        if matches and not found:
            raise PromptsError(f"prompts: {root} matches folders only; {root}/*.parquet matches the files in them")
    elif info is not None and info["type"] != "directory":
        found, folder = {root: info}, root.rpartition("/")[0]
    else:
        found, folder = fs.find(root, detail=True), root.rstrip("/")
        _refuse_table_formats(root, found)
        names = (path for path in found if path.endswith(".parquet") and not _is_hidden(path[len(folder) :]))
        found = {path: found[path] for path in names}
    return folder, [found[path] for path in sorted(found)]


def _refuse_table_formats(root: str, paths: Iterable[str]) -> None:
    for path in paths:
        for pattern, name, snapshot in TABLE_FORMATS:
            if pattern.search(path[len(root) :]):
                raise PromptsError(
                    f"prompts: {root} holds {name} table, whose folder also has files of removed rows; write a "
                    f"snapshot of it ({snapshot}) to plain Parquet files first"
                )


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """fsspec's info for a path, None if it does not exist. Unlike `fs.isfile`, other errors are raised."""
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except FileNotFoundError:
        return None


def _is_hidden(name: str) -> bool:
    """Whether a path names a marker or a temporary file of another writer, such as Spark's `_SUCCESS`."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))


def describe(fs: fsspec.AbstractFileSystem, folder: str, info: dict[str, Any]) -> Found:
    url = fs.unstrip_protocol(info["name"])
    if info["type"] != "file":  # opening a FIFO waits for a writer
        raise PromptsError(f"prompts: {url} is a pipe, a socket, a device or a broken link; prompts are Parquet files")
    with storage_errors(url), fs.open(info["name"], "rb", **_footer_cache(fs)) as file:
        return Found(
            url=url,
            name=info["name"][len(folder) :].lstrip("/"),
            version=version_of(fs, info),
            num_bytes=info["size"],
            footer=read_footer(url, file, info["size"]),
        )


def _footer_cache(fs: fsspec.AbstractFileSystem) -> dict[str, Any]:
    """Options to read the tail of a remote file in one small request instead of a block of many megabytes."""
    return {} if "file" in fs.protocol else {"cache_type": "readahead", "block_size": TAIL_BYTES}


def hive_columns(files: Sequence[Found]) -> dict[str, pa.DataType]:
    """The columns that the names of folders set, with one type each."""
    values: dict[str, list[str | None]] = {}
    for file in files:
        for key, value in file.hive_values:
            values.setdefault(key, []).append(value)
    return {key: hive_type(key, found) for key, found in values.items()}


def checked_columns(file: Found, hive: dict[str, pa.DataType], ignored_columns: set[str]) -> Columns:
    """The carried columns of a file and of its folders' names. Raises PromptsError for a column that is not allowed."""
    schema = file.footer.schema
    for key, _ in file.hive_values:
        schema = schema.append(pa.field(key, hive[key]))
    check_columns(file.url, schema, ignored_columns)
    return plain_columns(file.url, schema, file.footer.extents)
