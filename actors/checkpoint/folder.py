"""Where a model's name leads: a bundled folder, a folder on disk, a URL or a hub repository. Holds the local kind."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from actors.checkpoint.files import StoredFile
from actors.errors import CheckpointError, NoSuchFolder

BUNDLED = ("janus-shapes", "janusflow-shapes")
_BUNDLED_ROOT = Path(__file__).parent / "bundled"
# organization/name, with a folder of an autoencoder in it or not. Anything else without :// is a path.
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(vae))?")


class Folder(Protocol):
    """A flat folder of model files, wherever it lies. Every method may raise CheckpointError."""

    name: str

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository, 40 hex digits."""

    def files(self) -> Mapping[str, StoredFile]:
        """What lies directly in the folder."""

    def read(self, file_name: str) -> bytes:
        """The content of a small file."""

    def sha256(self, file_name: str) -> str:
        """The SHA-256 of a file, as hex."""

    def fetch(self, file_names: Sequence[str]) -> Path:
        """A folder on this machine's disk that holds these files."""

    def subfolder(self, name: str) -> Folder:
        """A folder inside this one. It may not exist."""


def find_folder(name: str, *, revision: str | None, storage_options: Mapping[str, Any] | None) -> Folder:
    """The folder a user's name for a model means.

    In this order: a bundled name; anything with `://`, which fsspec opens with `storage_options`; a folder that
    exists; a hub id `organization/name`, at `revision` (default: its main branch). `/vae` behind a bundled name or a
    hub id is the folder of that name inside. Raises CheckpointError where nothing is found.
    """
    hub_name = None
    if name.removesuffix("/vae") in BUNDLED:
        folder: Folder = LocalFolder(_BUNDLED_ROOT / name, name)
    elif name.startswith("file://"):
        folder = LocalFolder(Path(name.removeprefix("file://")), name)
    elif "://" in name:
        from actors.checkpoint.url import UrlFolder

        folder = UrlFolder(name, storage_options or {})
    elif os.path.exists(os.path.expanduser(name)) or not (hub_name := _HUB_NAME.fullmatch(name)):
        folder = LocalFolder(Path(os.path.expanduser(name)), name)
    else:
        from actors.checkpoint.hub import open_hub_folder

        folder = open_hub_folder(hub_name[1], revision, hub_name[2] or "")
    if revision is not None and not hub_name:
        raise CheckpointError(f"a revision belongs to a hub id (organization/name); {name} is none, got {revision!r}")
    return folder


class LocalFolder:
    """A folder on this machine's disk; `name` is what messages call it."""

    def __init__(self, path: Path, name: str, revision: str | None = None) -> None:
        self.path, self.name, self.revision = path, name, revision

    def files(self) -> dict[str, StoredFile]:
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise NoSuchFolder(
                f"the model folder {self.path} {what}; a model is named by a folder, a URL of one, a hub id "
                f"(organization/name) or one of {', '.join(BUNDLED)}"
            )
        try:
            with os.scandir(self.path) as entries:
                return {e.name: StoredFile(name=e.name, size=e.stat().st_size) for e in entries if e.is_file()}
        except PermissionError as error:
            raise CheckpointError(f"the model folder {self.path} may not be read by this user") from error

    def read(self, file_name: str) -> bytes:
        return (self.path / file_name).read_bytes()

    def sha256(self, file_name: str) -> str:
        path = (self.path / file_name).resolve()
        status = path.stat()
        return _file_sha256(path, status.st_size, status.st_mtime_ns)

    def fetch(self, file_names: Sequence[str]) -> Path:
        return self.path

    def subfolder(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name, f"{self.name.rstrip('/')}/{name}", self.revision)


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hashed once per process and state of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
