"""A folder of model files: what every kind of folder can do, and the kind on this machine's disk."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from actors.checkpoint.files import StoredFile
from actors.checkpoint.name import ALLOWED
from actors.errors import CheckpointError, NoSuchFolder, one_line

BUNDLED = ("janus-shapes", "janusflow-shapes")


class Folder(Protocol):
    """A flat folder of model files, on disk or remote. Every method may raise CheckpointError."""

    name: str

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository, 40 hex digits; None for every other folder."""

    def files(self) -> Mapping[str, StoredFile]:
        """The entries directly in the folder, by name. Those that are no regular file have a `fault`."""

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
            raise NoSuchFolder(f"the model folder {one_line(str(self.path))} {what}; {ALLOWED}")
        with _explained(self.path), os.scandir(self.path) as entries:
            return {entry.name: _describe(entry) for entry in entries}

    def read(self, file_name: str) -> bytes:
        with _explained(self.path / file_name):
            return (self.path / file_name).read_bytes()

    def sha256(self, file_name: str) -> str:
        with _explained(self.path / file_name):
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


def _describe(entry: os.DirEntry[str]) -> StoredFile:
    try:
        status = entry.stat()
    except OSError:
        return StoredFile(name=entry.name, size=0, fault="is a link that leads nowhere")
    if stat.S_ISREG(status.st_mode):
        return StoredFile(name=entry.name, size=status.st_size)
    fault = "is a folder" if stat.S_ISDIR(status.st_mode) else "is a pipe, a socket or a device"
    return StoredFile(name=entry.name, size=0, fault=fault)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
