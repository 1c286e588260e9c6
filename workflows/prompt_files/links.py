"""Symbolic links among local prompt files: a listing of fsspec has the links, not what they point to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec

Listing = dict[str, dict[str, Any]]


def with_links_followed(
    fs: fsspec.AbstractFileSystem,
    found: Listing,
    *,
    roots: Sequence[str] = (),
    list_folder: Callable[[str], Listing] | None = None,
) -> Listing:
    """The listing with the files that links point to, under the links' names. A broken link stays as it is.

    A link to a folder is replaced by the files that `list_folder` finds there. Without `list_folder`, the listing
    omits it. A file that is also listed under its own name counts once (`latest`, next to the file or folder that it
    points to). A link into or out of one of the `roots`, which are listed as a whole, is not followed.
    """
    links = {path for path, info in found.items() if info.get("islink") and info["type"] == "other"}
    files = {path: info for path, info in found.items() if path not in links}
    listed = {os.path.realpath(path) for path in files} if links else set()
    for path in sorted(links):
        target = os.path.realpath(path)
        if os.path.isdir(target):
            if list_folder is not None and not any(_overlap(target, root) for root in roots):
                below = list_folder(target)
                files |= {name: {**info, "name": name} for name, info in _renamed(below, target, path)}
        elif target not in listed:
            files[path] = fs.info(path) if os.path.exists(target) else found[path]
    return files


def _renamed(found: Listing, folder: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name + path[len(folder) :], info) for path, info in found.items()]


def _overlap(one: str, other: str) -> bool:
    """Whether one folder is the other, or in it."""
    first, second = Path(one), Path(os.path.realpath(other))
    return first.is_relative_to(second) or second.is_relative_to(first)
