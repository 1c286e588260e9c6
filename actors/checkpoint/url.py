"""A model folder at a URL that fsspec opens (s3://, gs://, ...), downloaded once per machine into a cache folder."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.checkpoint.files import StoredFile
from actors.errors import CheckpointError, CheckpointUnreachable, NoSuchFolder

# The names that stores give to a mark which changes with a file's content, the best first.
_CONTENT_MARKS = ("ETag", "etag", "md5Hash", "sha", "blob_id", "mtime", "LastModified", "last_modified", "created")


class UrlFolder:
    """The folder at `url`, opened by fsspec with `storage_options` (an endpoint_url, say; never credentials)."""

    revision = None

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        import fsspec

        self.name = url.rstrip("/")
        with _explained(self.name):
            # conditional_create is a storage option of the job's output, not of fsspec.
            options = {key: value for key, value in storage_options.items() if key != "conditional_create"}
            self._filesystem, self._root = fsspec.core.url_to_fs(self.name, **options)
        self._options = storage_options

    def files(self) -> dict[str, StoredFile]:
        return {name: StoredFile(name=name, size=entry["size"]) for name, entry in self._listing.items()}

    def read(self, file_name: str) -> bytes:
        with _explained(self.name):
            data: bytes = self._filesystem.cat_file(self._path(file_name))
            return data

    def sha256(self, file_name: str) -> str:
        """Streams the whole file once per machine; the cache keeps the hash under the file's content mark."""
        if self._mark(file_name) is None:
            return self._stream_sha256(file_name)
        note = cache_root() / "sha256" / self._cache_key([file_name])
        if not note.is_file():
            digest = self._stream_sha256(file_name)
            with _cache_explained():
                note.parent.mkdir(parents=True, exist_ok=True)
                partial = note.with_name(f"{note.name}.{socket.gethostname()}.{os.getpid()}")
                partial.write_text(digest)
                partial.replace(note)
        return note.read_text()

    def fetch(self, file_names: Sequence[str]) -> Path:
        """Download into `$JANUS_BATCH_CACHE` (default ~/.cache/janus-batch), unless the folder is already there.

        The folder's name is a hash of the URL and of the files' sizes and content marks, so changed files get another
        folder. It appears complete or not at all, and concurrent processes download it once.
        """
        from filelock import FileLock

        target = cache_root() / "models" / self._cache_key(file_names)
        # flock does not work across hosts: on a shared disk every host downloads, and the first to finish wins.
        host = socket.gethostname()
        with _cache_explained():
            target.parent.mkdir(parents=True, exist_ok=True)
        with _cache_explained(), FileLock(f"{target}.{host}.lock"):
            if not target.is_dir():
                self._download(file_names, target.with_name(f"{target.name}.{host}.partial"), target)
        return target

    def subfolder(self, name: str) -> UrlFolder:
        return UrlFolder(f"{self.name}/{name}", self._options)

    def _download(self, file_names: Sequence[str], partial: Path, target: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)  # from a process that was killed
        partial.mkdir()
        for name in file_names:
            with _explained(self.name):
                self._filesystem.get_file(self._path(name), str(partial / name))
            size, expected_size = (partial / name).stat().st_size, self._listing[name]["size"]
            if size != expected_size:
                raise CheckpointUnreachable(
                    f"{name} of {self.name} arrived with {size} bytes instead of {expected_size}"
                )
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(partial)  # another host finished first

    def _cache_key(self, file_names: Sequence[str]) -> str:
        files = [
            f"{name} {self._listing[name]['size']} {self._mark(name) or self._stream_sha256(name)}"
            for name in sorted(file_names)
        ]
        return hashlib.sha256("\n".join([self.name, *files]).encode()).hexdigest()[:32]

    def _mark(self, file_name: str) -> str | None:
        entry = self._listing[file_name]
        return next((str(entry[key]) for key in _CONTENT_MARKS if entry.get(key)), None)

    def _stream_sha256(self, file_name: str) -> str:
        with _explained(self.name), self._filesystem.open(self._path(file_name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _path(self, file_name: str) -> str:
        return f"{self._root.rstrip('/')}/{file_name}"

    @functools.cached_property
    def _listing(self) -> dict[str, dict[str, Any]]:
        with _explained(self.name):
            self._filesystem.invalidate_cache()
            entries = self._filesystem.ls(self._root, detail=True)
        return {e["name"].rsplit("/", 1)[-1]: e for e in entries if e["type"] == "file"}


@contextmanager
def _cache_explained() -> Iterator[None]:
    """Turn errors of the cache's disk into a CheckpointError that names the variable."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_root()} cannot be written ({error.strerror or type(error).__name__}); "
            "JANUS_BATCH_CACHE names another folder"
        ) from error


def cache_root() -> Path:
    """Where downloaded models are kept. Raises CheckpointError for a user without a home folder."""
    folder = os.path.expanduser(os.environ.get("JANUS_BATCH_CACHE") or "~/.cache/janus-batch")
    if folder.startswith("~"):
        raise CheckpointError("this user has no home folder for the cache; JANUS_BATCH_CACHE names another folder")
    return Path(folder)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn the errors of fsspec and of the stores' clients into CheckpointErrors of one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise NoSuchFolder(f"there is no folder {url}") from error
    except (PermissionError, ImportError, ValueError) as error:
        raise CheckpointError(f"{url} cannot be opened: {_sentence(error)}") from error
    except OSError as error:
        raise CheckpointUnreachable(f"{url} cannot be read now: {_sentence(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore.", "aiohttp.")):
            raise
        if "Credentials" in type(error).__name__:
            raise CheckpointError(f"{url} cannot be opened: {_sentence(error)}") from error
        raise CheckpointUnreachable(f"{url} cannot be read now: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
