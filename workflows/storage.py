"""The one seam to storage: a folder on a local disk or behind any fsspec URL, with a conditional create.

What the files mean is not known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec

from actors.errors import InputError

# Keys of fsspec options that would put a secret into a job file, and from there into job.json.
SECRET_OPTIONS = frozenset({"key", "secret", "token", "password", "sas_token", "account_key", "connection_string"})

# For the first contact with an S3 store: a wrong address is worth seconds, an outage in mid-job s3fs's own patience.
FIRST_CONTACT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 2}}

# Stores take 5 GiB in one PUT, and ignore a condition on a PUT in parts.
MAX_CREATE_BYTES = 4 * 2**30

# Errors of storage that trying again does not mend.
LASTING_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)


class StorageError(InputError):
    """A folder that cannot be read or written as it was named: wrong address, credentials, permissions or path."""


class Storage:
    """A folder and what may be done with the files below it. `name`s are relative, with `/` between parts."""

    def __init__(self, url: str, options: dict[str, Any] | None = None, *, is_first_contact: bool = False) -> None:
        self.url = url.rstrip("/")
        self.options = dict(options or {})
        self.fs, self.root = open_url(self.url, self.options, is_first_contact=is_first_contact)
        self.is_local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return self.fs.cat_file(self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place, over what is there; a reader sees the old bytes or the new, never a part."""
        if not self.is_local:
            self.fs.pipe_file(self.path(name), data)
            return
        with self._local_draft(name, data) as draft:
            os.replace(draft, self.path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Put a whole file in place only if there is none; of many callers one wins. True if the file is now `data`.

        S3 is asked with `If-None-Match: *` in a single PUT. A PUT whose answer got lost and was sent again is
        refused by its own first try; so on a refusal the bytes that are there decide.
        """
        try:
            if self.is_local:
                with self._local_draft(name, data) as draft:
                    os.link(draft, self.path(name))
            else:
                self.fs.pipe_file(self.path(name), data, mode="create", **self._single_put(data))
            return True
        except OSError as error:
            if not _says_exists(error):
                raise
            return self.read(name) == data

    def put_beside(self, name: str, data: bytes) -> str:
        """Put a whole file in place without touching one that is there; returns the name that holds `data` now.

        A file with other bytes is left alone and `data` goes beside it, with a part of its hash in the name.
        """
        if len(data) <= MAX_CREATE_BYTES:
            if self.create(name, data):
                return name
            stem, _, extension = name.rpartition(".")
            name = f"{stem}.{hashlib.sha256(data).hexdigest()[:8]}.{extension}"
        self.write(name, data)
        return name

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return self.fs.exists(self.path(name))

    def names(self, folder: str) -> list[str]:
        """The names of the files right below `folder`, sorted; none where there is no such folder."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def walk(self, folder: str) -> dict[str, int]:
        """Every file below `folder` at any depth, as names relative to this storage, with its size in bytes."""
        self.fs.invalidate_cache()
        found = self.fs.find(self.path(folder), detail=True)
        return {path[len(self.root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def _single_put(self, data: bytes) -> dict[str, int]:
        """Options that keep s3fs from splitting the data: stores may ignore the condition on a multipart upload."""
        return {"chunksize": len(data) + 1} if "s3" in self.fs.protocol else {}

    @contextlib.contextmanager
    def _local_draft(self, name: str, data: bytes) -> Iterator[str]:
        """A finished, synced file beside the one that is meant, gone again afterwards."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = f"{path}.{uuid.uuid4().hex[:8]}.draft"
        try:
            with open(draft, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)


def open_url(
    url: str, options: dict[str, Any], *, is_first_contact: bool = False
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a URL or local path, and the path in it. Raises StorageError.

    On first contact an S3 store that cannot be reached is given up after seconds.
    """
    options = options if _is_remote(url) else {}  # the job's storage options are its object store's
    patience = {}
    if is_first_contact and url.startswith(("s3://", "s3a://")):
        patience = {"config_kwargs": {**FIRST_CONTACT, **options.get("config_kwargs", {})}}
    with storage_errors(url):
        try:
            fs, path = fsspec.core.url_to_fs(url, **{**options, **patience})
            if patience:
                fs.retries = 1
                fs.connect()
        except TypeError as error:
            raise StorageError(f"{url} cannot be opened with storage options {', '.join(options)}: {error}") from error
    return fs, path


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a storage library raises for a wrong address, credentials or permission into one clear sentence."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{url} is not there{_detail(error)}") from error
    except PermissionError as error:
        raise StorageError(f"{url} may not be used with the credentials given{_detail(error)}") from error
    except (OSError, ImportError, ValueError) as error:
        raise StorageError(f"{url} cannot be used{_detail(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs")):
            raise
        raise StorageError(f"{url} cannot be reached{_detail(error)}") from error


def is_transient(error: BaseException) -> bool:
    """Whether a storage error may go away by itself: a lost connection, a time-out, a server that is busy or down."""
    if isinstance(error, LASTING_ERRORS):
        return False
    if isinstance(error, OSError | TimeoutError):
        return True
    return type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith(("file://", "local://"))


def _says_exists(error: OSError) -> bool:
    """Stores say "exists already" in two ways: FileExistsError, or an OSError caused by a 412 (Ceph)."""
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
    return isinstance(error, FileExistsError) or code in {"PreconditionFailed", "412", "ConditionalRequestConflict"}


def _detail(error: BaseException) -> str:
    """What a library says of an error, to stand behind our own sentence; some stores say nothing ("None")."""
    line = (str(error).splitlines() or [""])[0]
    return "" if line in ("", "None") else f": {line}"
