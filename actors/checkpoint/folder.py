"""A folder of model files: what every kind of folder can do, and the kind on this machine's disk."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from actors.checkpoint.files import StoredFile
from actors.errors import CheckpointError, NoSuchFolder

BUNDLED = ("janus-shapes", "janusflow-shapes")


class Folder(Protocol):
    """A flat folder of model files, on disk or remote. Every method may raise CheckpointError."""

    name: str

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository, 40 hex digits; None for every other folder."""

    def files(self) -> Mapping[str, StoredFile]:
        """The files directly in the folder, by name."""

    def read(self, file_name: str) -> bytes:
        """The content of a small file."""

    def sha256(self, file_name: str) -> str:
        """The SHA-256 of a file, as hex."""

    def fetch(self, file_names: Sequence[str]) -> Path:
        """A folder on this machine's disk that holds these files."""

    def subfolder(self, name: str) -> Folder:
        """A folder inside this one. It may not exist."""


class LocalFolder:
    """A folder on this machine's disk. Messages call it `name`."""

    def __init__(self, path: Path, name: str, revision: str | None = None) -> None:
        self.path, self.name, self.revision = path, name, revision

    def files(self) -> dict[str, StoredFile]:
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise NoSuchFolder(
                f"the model folder {self.path} {what}; allowed are a folder, the URL of a folder, a hub id "
                f"(organization/name) and {', '.join(BUNDLED)}"
            )
        try:
            with os.scandir(self.path) as entries:
                return {e.name: StoredFile(name=e.name, size=e.stat().st_size) for e in entries if e.is_file()}
        except PermissionError as error:
            raise CheckpointError(f"this user is not allowed to read the model folder {self.path}") from error

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
    """Cached per process, for as long as the file keeps its size and time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
