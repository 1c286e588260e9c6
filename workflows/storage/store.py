"""A folder on a local disk or behind any fsspec URL, with a conditional create. All storage access goes through here.

Nothing here knows what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import os
import random
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from workflows.storage.errors import NotAFileError, StorageError, StorageFailure, s3_code, storage_errors
from workflows.storage.path import is_local

# For the first contact with an S3 store: a wrong address should fail within seconds.
FIRST_CONTACT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 2}}

# For every later call: the library gives up early, because `workflows.storage.retry` waits much longer.
EACH_CALL = {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 3}}

# Stores take at most 5 GiB in one PUT, and may ignore the condition on a multipart upload.
MAX_CREATE_BYTES = 4 * 2**30
NUM_HASH_DIGITS = 8  # in the name of a file that is put alongside another one
NUM_CONFLICTS = 5  # 409 answers in a row, from creators at the same moment, before the error is raised

# The only storage option of a job file that is not fsspec's; `false` for a store without a conditional create.
CONDITIONAL_CREATE = "conditional_create"

DRAFT = ".draft"  # the end of the name of a file that is being written; a killed process leaves it
_DRAFT_NAME = re.compile(rf"(^|/)\.[^/]+\.[0-9a-f]{{8}}{re.escape(DRAFT)}$")

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
FULL_STORE = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}


class Storage:
    """A folder and the operations on its files. Each `name` is a path relative to the folder, with `/` between parts.

    `can_create` is True if the store refuses the second of two creators of one file. With the storage option
    `conditional_create: false`, `create` checks first and then writes, and `put_alongside` puts a hash into every
    name: a late attempt may then replace an earlier commit, but both name files that exist.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None, *, is_first_contact: bool = False) -> None:
        self.url = url.rstrip("/")
        self.options = dict(options or {})
        self.can_create = self.options.get(CONDITIONAL_CREATE, True) is not False
        self.fs, self.root = open_url(self.url, self.options, is_first_contact=is_first_contact)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError, and its kind NotAFileError for what is no file."""
        with _file_errors(f"{self.url}/{name}"):
            self._check_regular(name)
            data: bytes = self.fs.cat_file(self.path(name))
            return data

    def size(self, name: str) -> int:
        """The size of a file in bytes. Raises FileNotFoundError."""
        with _file_errors(f"{self.url}/{name}"):
            return int(self.fs.size(self.path(name)))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file, open for reading. Raises like `read`."""
        with _file_errors(f"{self.url}/{name}"):
            self._check_regular(name)
            file = self.fs.open(self.path(name), "rb")
        with file:
            yield file

    def _check_regular(self, name: str) -> None:
        """A pipe would block for ever, and a device may have no end."""
        if not self.is_local:
            return
        mode = os.stat(self.path(name)).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise NotAFileError(f"{self.url}/{name} is a pipe, a socket or a device; it must be a file")

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, replacing an existing one; a reader sees the old bytes or the new ones, never a part."""
        with self._room_for(name):
            if not self.is_local:
                self.fs.pipe_file(self.path(name), data)
                return
            with self._local_draft(name, data) as draft:
                os.replace(draft, self.path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file only if it does not exist; one of many callers wins. True if the file now holds `data`.

        On S3 this is a single PUT with `If-None-Match: *`. A client that repeats a PUT because the answer was lost is
        refused by its own first try, so after a refusal the bytes of the existing file decide.
        """
        if not self.can_create:
            if not self.exists(name):
                self.write(name, data)
            return self.read(name) == data
        with self._room_for(name):
            return self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        for is_last in [False] * (NUM_CONFLICTS - 1) + [True]:
            try:
                if self.is_local:
                    with self._local_draft(name, data) as draft:
                        os.link(draft, self.path(name))
                else:
                    self.fs.pipe_file(self.path(name), data, mode="create", **self._single_put(data))
                return True
            except OSError as error:
                if _says_exists(error):
                    return self._holds(name, data)
                # S3's 409: another creator writes at the same moment and neither has won yet. Try again.
                if is_last or s3_code(error) != "ConditionalRequestConflict":
                    raise
                time.sleep(random.random() / 2)
        raise AssertionError("unreachable: the last try returns or raises")

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether what has this name is a file with these bytes."""
        with contextlib.suppress(NotAFileError):
            return self.read(name) == data
        return False

    def put_alongside(self, name: str, data: bytes) -> str:
        """Write a whole file and leave an existing one untouched. Returns the name of the file that holds `data`.

        If a file of this name exists with other bytes, `data` is written next to it, with 8 digits of its SHA-256 in
        the name.
        """
        if self.can_create and len(data) <= MAX_CREATE_BYTES and self.create(name, data):
            return name
        stem, _, extension = name.rpartition(".")
        name = f"{stem}.{hashlib.sha256(data).hexdigest()[:NUM_HASH_DIGITS]}.{extension}"
        self.write(name, data)
        return name

    def put_new(self, name: str, local_path: str) -> None:
        """Copy a local file of any size, unless there is one of this name. A reader never sees a part of it.

        For files of which all writers write the same: two of them at one moment may both write.
        """
        if self.exists(name):
            return
        with self._room_for(name):
            if not self.is_local:
                self.fs.put_file(local_path, self.path(name))
                return
            draft = self._draft_path(name)
            try:
                shutil.copyfile(local_path, draft)
                with open(draft, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(draft, self.path(name))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)

    def keeps_the_first(self) -> bool:
        """Whether this store refuses to create a file that exists, tested with a file that is removed afterwards.

        fsspec file systems that check and then write do not: another writer may come in between.
        """
        is_async = isinstance(self.fs, AsyncFileSystem)  # these implement `_pipe_file`, and inherit `pipe_file`
        if not self.is_local and not is_async and type(self.fs).pipe_file is fsspec.AbstractFileSystem.pipe_file:
            return False
        name = f"_probe-{uuid.uuid4().hex}"
        try:
            return self._create(name, b"first") and not self._create(name, b"second")
        except OSError as error:
            is_without_links = self.is_local and error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
            if not is_without_links and s3_code(error) != "NotImplemented":
                raise
            return False
        finally:
            self.remove(name)

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in `folder`, sorted; none if the folder does not exist."""
        return sorted(name for name, kind in self.entries(folder).items() if kind == "file")

    def entries(self, folder: str) -> dict[str, str]:
        """The names and the types (`file`, `directory`) of what is directly in `folder`, which need not exist."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["type"] for entry in entries}

    def walk(self, folder: str) -> dict[str, int]:
        """Every file below `folder` at any depth: its name relative to this storage, and its size in bytes."""
        self.fs.invalidate_cache()
        found = self.fs.find(self.path(folder), detail=True)
        return {path[len(self.root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def walk_names(self) -> Iterator[str]:
        """The name of every file at any depth, one folder after the other: memory grows with the largest folder."""
        for folder, _, files in self.fs.walk(self.root):
            self.fs.invalidate_cache()
            below = folder[len(self.root) :].strip("/")
            yield from (f"{below}/{name}" if below else name for name in files)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def age(self, name: str) -> float:
        """Seconds since a file was written, by this machine's clock. Raises FileNotFoundError."""
        modified: datetime = self.fs.modified(self.path(name))
        return time.time() - modified.timestamp()

    @contextlib.contextmanager
    def _room_for(self, name: str) -> Iterator[None]:
        """Raise StorageFailure if the disk or the quota is full: waiting does not help."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL_DISK and s3_code(error) not in FULL_STORE:
                raise
            raise StorageFailure(f"{self.url} is full, {name} could not be written: {error}") from error

    def _single_put(self, data: bytes) -> dict[str, int]:
        """Options that keep s3fs from a multipart upload, on which stores may ignore the condition."""
        return {"chunksize": len(data) + 1} if "s3" in self.fs.protocol else {}

    def _draft_path(self, name: str) -> str:
        """The path of a draft next to the final file. One that a killed process leaves begins with a dot, so that
        readers of data folders skip it."""
        folder, file_name = os.path.split(self.path(name))
        os.makedirs(folder, exist_ok=True)
        return f"{folder}/.{file_name}.{uuid.uuid4().hex[:8]}{DRAFT}"

    @contextlib.contextmanager
    def _local_draft(self, name: str, data: bytes) -> Iterator[str]:
        """A complete, synced file next to the final one, removed afterwards."""
        draft = self._draft_path(name)
        try:
            with open(draft, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)


def is_draft(name: str) -> bool:
    """Whether a file, given its name or path, is one that is being written or that a killed process left."""
    return _DRAFT_NAME.search(name) is not None


def open_url(
    url: str, options: dict[str, Any], *, is_first_contact: bool = False
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a URL or local path, and the path in it. Raises StorageError.

    With `is_first_contact`, an S3 store that cannot be reached fails within seconds.
    """
    protocol = "file" if is_local(url) else url.partition("://")[0]
    is_s3, timeouts = protocol in ("s3", "s3a"), FIRST_CONTACT if is_first_contact else EACH_CALL
    with storage_errors(url):
        file_system = fsspec.get_filesystem_class(protocol)
        options = _options_of(file_system, protocol, options)
        shown = ", ".join(options)
        try:
            if protocol in ("http", "https"):
                options = {"client_kwargs": {"timeout": _web_timeout(timeouts)}}
            if is_s3:
                options = {**options, "config_kwargs": {**timeouts, **options.get("config_kwargs", {})}}
            # url_to_fs would cut a path or key at `::`.
            fs = file_system(**{**file_system._get_kwargs_from_urls(url), **options})
            path = str(file_system._strip_protocol(url))
            if is_s3:
                fs.retries = 1  # s3fs would otherwise repeat botocore's own retries
            if is_s3 and is_first_contact:
                fs.connect()
        except (TypeError, AttributeError, KeyError) as error:
            raise StorageError(f"{url} cannot be opened with storage options {shown}: {error}") from error
    return fs, path


def _options_of(file_system: type[fsspec.AbstractFileSystem], protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that apply to this file system. A job writes them for its object store, but its prompts may be on a
    local disk, a web server or the hub.
    """
    if protocol in ("file", "http", "https"):
        return {}
    options = {key: value for key, value in options.items() if key != CONDITIONAL_CREATE}
    if protocol != "hf":
        return options
    named = inspect.signature(file_system.__init__).parameters
    return {key: value for key, value in options.items() if key in named}


def _web_timeout(timeouts: dict[str, Any]) -> Any:
    """The same timeouts for a web server. aiohttp's own default is five minutes for a file of any size."""
    import aiohttp  # late: most jobs read no web server

    return aiohttp.ClientTimeout(
        total=None, sock_connect=timeouts["connect_timeout"], sock_read=timeouts["read_timeout"]
    )


@contextlib.contextmanager
def _file_errors(url: str) -> Iterator[None]:
    """Raise NotAFileError for what is no file and for a name that no file of the store can have."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_FILE and s3_code(error) != "KeyTooLongError":
            raise
        raise NotAFileError(f"{url} is no file: {error.strerror or error}") from error


def _says_exists(error: OSError) -> bool:
    """Whether a store says that the file exists: by FileExistsError, or by an OSError caused by a 412 (Ceph)."""
    return isinstance(error, FileExistsError) or s3_code(error) in {"PreconditionFailed", "412"}
