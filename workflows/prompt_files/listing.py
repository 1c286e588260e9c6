"""Lists the prompt files that a file, a folder or a glob selects. They have one format."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Collection, Iterable
from typing import Any

import fsspec

from actors.errors import is_unicode, one_line
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.formats import ALLOWED, ENDINGS, format_of, prompts_among, without_ending
from workflows.prompt_files.hub import hub_files, is_hub
from workflows.prompt_files.links import Listing, with_links_followed
from workflows.storage.errors import error_of_web_server

# What a table format keeps in its folder, next to data files of which some are removed rows.
TABLE_FORMATS = (
    (re.compile(r"(^|/)_delta_log/"), "a Delta", "`DeltaTable(...).to_pyarrow_table()`"),
    (re.compile(r"(^|/)metadata/[^/]*\.metadata\.json$"), "an Iceberg", "`Table.scan().to_arrow()`"),
    (re.compile(r"(^|/)\.hoodie/"), "a Hudi", "`SELECT * FROM ...`"),
)
TABLE_FOLDERS = ("_delta_log", "metadata", ".hoodie")
# What `datasets` writes next to the Arrow files of a dataset and of a folder with several splits.
STATE_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"


def matching_files(fs: fsspec.AbstractFileSystem, root: str) -> tuple[str, list[dict[str, Any]]]:
    """The folder to which names are relative, and fsspec's info for each matching file. Raises PromptsError."""
    info = _info(fs, root)  # a name that exists is taken literally, whatever characters are in it
    if info is None and glob.has_magic(root):
        folder, found = _globbed(fs, root)
    elif info is not None and info["type"] != "directory":
        found, folder = {root: info}, root.rpartition("/")[0]
    elif is_hub(fs) and (info is None or _is_dataset(root)):
        folder, found = "/".join(root.split("/")[:3]), hub_files(fs, root)
    else:
        folder, found = root.rstrip("/"), _in_folder(fs, root)
    _check_names(found)
    _check_one_format(location_of(fs, root), folder, found)
    return folder, [found[path] for path in sorted(found)]


def _is_dataset(root: str) -> bool:
    """Whether a path on the hub names a whole dataset: datasets/ORGANIZATION/NAME."""
    return root.strip("/").count("/") == 2


def _globbed(fs: fsspec.AbstractFileSystem, root: str) -> tuple[str, Listing]:
    matches = fs.glob(root, detail=True)
    found = {path: info for path, info in matches.items() if info["type"] != "directory"}
    folder = root[: root.index(next(c for c in root if c in "*?["))].rpartition("/")[0]
    if not _is_hidden(root[len(folder) :]):  # as in a shell, hidden files must be asked for
        found = {path: info for path, info in found.items() if not _is_hidden(path[len(folder) :])}
    found = with_links_followed(fs, found)
    _refuse_table_formats(fs, folder, [path for name in TABLE_FOLDERS for path in fs.find(f"{folder}/{name}", 1)])
    if matches and not found:
        shown = location_of(fs, root)
        raise PromptsError(f"prompts: {shown} matches folders only; {shown}/*.parquet matches the files in them")
    return folder, found


def _in_folder(fs: fsspec.AbstractFileSystem, root: str, outer: tuple[str, ...] = ()) -> Listing:
    """The prompt files of a folder, at any depth. A link in one of the `outer` folders led to it."""
    found, folder = fs.find(root, detail=True), root.rstrip("/")
    _refuse_table_formats(fs, root, found)
    if saved := _saved_dataset(fs, folder, found):
        return with_links_followed(fs, {path: found[path] for path in saved})
    visible = {path: info for path, info in found.items() if not _is_hidden(path[len(folder) :])}
    roots = (*outer, folder)
    files = with_links_followed(fs, visible, roots=roots, list_folder=lambda path: _in_folder(fs, path, roots))
    return {path: files[path] for path in prompts_among(files)}


def _saved_dataset(fs: fsspec.AbstractFileSystem, folder: str, found: Collection[str]) -> list[str]:
    """The files of a dataset that `datasets` saved to disk; none if the folder is something else.

    Its folder may have other Arrow files: caches. Raises PromptsError for a folder with several splits.
    """
    if f"{folder}/{SPLITS_FILE}" in found:
        splits = sorted({path[len(folder) + 1 :].partition("/")[0] for path in found if path.endswith(STATE_FILE)})
        if len(splits) != 1:
            shown = location_of(fs, folder)
            raise PromptsError(
                f"prompts: {shown} holds a dataset with the splits {one_line(', '.join(splits))}; name one of them: "
                f"{shown}/{splits[0] if splits else 'train'}"
            )
        folder = f"{folder}/{splits[0]}"
    state = f"{folder}/{STATE_FILE}"
    if state not in found:
        return []
    try:
        files = [f"{folder}/{file['filename']}" for file in json.loads(fs.cat_file(state))["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return []  # of another program
    if missing := [file for file in files if file not in found]:
        raise PromptsError(f"prompts: {location_of(fs, missing[0])} is missing, which {location_of(fs, state)} names")
    return files


def _check_names(found: Iterable[str]) -> None:
    """Raise PromptsError for a file whose name is not UTF-8: neither a manifest nor job.json can hold it."""
    for path in found:
        if not is_unicode(path):
            raise PromptsError(f"prompts: the name of {one_line(path)} is not UTF-8 text; rename the file")


def _check_one_format(root: str, folder: str, found: Collection[str]) -> None:
    """Raise PromptsError for files of several formats, or whose rows would have the same ids."""
    first_of: dict[str, str] = {}
    stems: dict[str, str] = {}
    for path in sorted(found):
        name, form = path[len(folder) :].lstrip("/"), format_of(path)
        first_of.setdefault(form.name, name)
        other = stems.setdefault(without_ending(name) if form.ending in ENDINGS else name, name)
        if other != name:
            raise PromptsError(f"prompts: {other} and {name} in {root} would give their rows the same ids; rename one")
    if len(first_of) > 1:
        names = " and ".join(f"{one_line(name)} ({form})" for form, name in list(first_of.items())[:2])
        raise PromptsError(
            f"prompts: {root} has files of several formats, {names}; select those of one format, such as {root}/*.csv"
            if not glob.has_magic(root)
            else f"prompts: {root} matches files of several formats, {names}; select those of one format"
        )


def location_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """A path of this file system as a user writes it: fsspec's paths are without `s3://`."""
    return path if "file" in fs.protocol else str(fs.unstrip_protocol(path))


def no_match(prompts: str) -> PromptsError:
    return PromptsError(
        f"prompts: no prompt files match {prompts} (a file, a glob, or a folder of files in one format: {ALLOWED})"
    )


def _refuse_table_formats(fs: fsspec.AbstractFileSystem, root: str, paths: Iterable[str]) -> None:
    for path in paths:
        for pattern, name, snapshot in TABLE_FORMATS:
            if pattern.search(path[len(root) :]):
                raise PromptsError(
                    f"prompts: {location_of(fs, root)} holds {name} table, whose folder also has files of removed "
                    f"rows; write a snapshot of it ({snapshot}) to plain Parquet files first"
                )


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """fsspec's info for a path, None if it does not exist. Unlike `fs.isfile`, other errors are raised."""
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except FileNotFoundError as error:
        if error_of_web_server(error) is not None:
            raise
        return None


def _is_hidden(name: str) -> bool:
    """Whether a path names a marker or a temporary file of another writer, such as Spark's `_SUCCESS`."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))
