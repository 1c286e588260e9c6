"""From a model's name to its folder: bundled, on disk, at a URL or in a hub repository."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.checkpoint.folder import BUNDLED, Folder, LocalFolder
from actors.checkpoint.hub import open_hub_folder
from actors.checkpoint.url import UrlFolder
from actors.errors import CheckpointError

_BUNDLED_ROOT = Path(__file__).parent / "bundled"
# organization/name, optionally followed by the folder of its autoencoder. Anything else without :// is a path.
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(vae))?")


def find_folder(name: str, *, revision: str | None, storage_options: Mapping[str, Any] | None) -> Folder:
    """The folder that a model's name refers to.

    In this order: a bundled name; a name with `://`, which fsspec opens with `storage_options`; an existing folder; a
    hub id `organization/name`, at `revision` (default: its main branch). `/vae` after a bundled name or a hub id is the
    folder of that name inside. Raises CheckpointError.
    """
    hub_name = None
    if name.removesuffix("/vae") in BUNDLED:
        folder: Folder = LocalFolder(_BUNDLED_ROOT / name, name)
    elif name.startswith("file://"):
        folder = LocalFolder(Path(name.removeprefix("file://")), name)
    elif "://" in name:
        folder = UrlFolder(name, storage_options or {})
    elif os.path.exists(os.path.expanduser(name)) or not (hub_name := _HUB_NAME.fullmatch(name)):
        folder = LocalFolder(Path(os.path.expanduser(name)), name)
    else:
        folder = open_hub_folder(hub_name[1], revision, hub_name[2] or "")
    if revision is not None and not hub_name:
        raise CheckpointError(
            f"model.revision needs a hub id (organization/name), which {name} is not; got {revision!r}"
        )
    return folder
