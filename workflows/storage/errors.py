"""What goes wrong with storage: one clear sentence for each error of a storage library, and which errors may pass."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from actors.errors import CheckpointUnreachable, InputError, JobFailure

# Errors of storage that a retry does not fix.
LASTING_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_S3_CLIENTS = ("botocore", "aiobotocore", "aiohttp")
_OTHER_CLIENTS = ("gcsfs", "adlfs")

MAX_DETAIL = 400  # characters of a library's message
# A store that does not answer: the clients' classes for a lost connection, HTTP statuses, and error numbers.
_LOST_CONNECTIONS = {
    "HTTPClientError",
    "ConnectionError",
    "ClientConnectionError",
    "ClientPayloadError",
    "TransportError",
}
_BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_NO_FILE = {404, 410}
_BUSY_ERRNOS = {errno.EBUSY, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT}
# Lost connections by their class that a setting is to blame for: TLS, and a hub that HF_HUB_OFFLINE forbids to ask.
_SETTINGS_AT_FAULT = {"SSLError", "ClientSSLError", "OfflineModeIsEnabled"}


class StorageError(InputError):
    """A folder cannot be read or written as the user named it: wrong address, credentials, permissions or path."""


class NotAFileError(StorageError, FileNotFoundError):
    """There is something else where a file is expected: a directory, a pipe, a loop of links, a name that no file can
    have. Whoever expects that a file may be missing need not tell them apart.
    """


class StorageFailure(JobFailure):
    """Storage worked and then stopped in a way that waiting does not fix: a full disk, expired credentials."""


class StorageUnreachable(StorageFailure):
    """Storage does not answer now: the connection is refused or lost, times out, or the store is busy or down."""


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a storage library raises for a wrong address, credentials or permissions into a StorageError.

    Raises StorageUnreachable instead if the store does not answer: the address may be right, so a retry may help.
    """
    try:
        yield
    except (InputError, JobFailure):
        raise
    except Exception as error:
        explained = _explain(url, error)
        if explained is None:
            raise
        raise explained from error


@contextlib.contextmanager
def storage_failures(url: str) -> Iterator[None]:
    """Like `storage_errors`, but raise StorageFailure: once a job is running, storage that breaks fails the job."""
    try:
        with storage_errors(url):
            yield
    except StorageError as error:
        raise StorageFailure(str(error)) from error


def does_not_answer(error: BaseException) -> bool:
    """Whether an error says that storage, or the hub of a checkpoint, is away: unreachable, timed out, busy or down.

    False for errors that need a person: a wrong bucket, path, endpoint URL or key, and a full or read-only disk.
    """
    if isinstance(error, CheckpointUnreachable) and error.__cause__ is not None:
        return does_not_answer(error.__cause__)
    if (real := error_of_web_server(error)) is not None:
        return does_not_answer(real)
    if isinstance(error, StorageUnreachable | CheckpointUnreachable):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, LASTING_ERRORS) or names & _SETTINGS_AT_FAULT:
        return False
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or names & _LOST_CONNECTIONS:
        return True  # also half an answer, whose cause in aiohttp has a status of 400
    if (status := _http_status(error)) is not None:
        return status in _BUSY_STATUSES
    return isinstance(error, OSError) and error.errno in _BUSY_ERRNOS


def is_transient(error: BaseException) -> bool:
    """Whether an error of storage that worked before may go away by itself. Wider than `does_not_answer`: a disk that
    was written to and reports an error may recover, too.
    """
    if isinstance(error, StorageError) and error.__cause__ is not None:
        return is_transient(error.__cause__)
    if isinstance(error, StorageUnreachable) or does_not_answer(error):
        return True
    if isinstance(error, LASTING_ERRORS):
        return False
    if isinstance(error, OSError | TimeoutError):
        return True
    return type(error).__module__.startswith(_S3_CLIENTS)


def error_of_web_server(error: BaseException) -> Exception | None:
    """What went wrong with a web server, of which fsspec always says that the file does not exist; None for others, and
    if the file does not exist.
    """
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    is_real = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return cause if isinstance(cause, Exception) and is_real and _http_status(cause) not in _NO_FILE else None


def s3_code(error: BaseException) -> str:
    """The code that an S3 store gave the error from which s3fs made this one; empty for other errors."""
    return str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))


def _explain(url: str, error: Exception) -> StorageError | StorageUnreachable | None:
    """One sentence for an error of a storage library; None for a bug."""
    if does_not_answer(error):
        return StorageUnreachable(f"{url} cannot be reached{_detail(error_of_web_server(error) or error)}")
    if (real := error_of_web_server(error)) is not None:
        return StorageError(f"{url} cannot be reached{_detail(real)}")
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{url} is not there{_detail(error)}")
    if isinstance(error, PermissionError):
        return StorageError(f"{url} may not be used with the credentials given{_detail(error)}")
    if isinstance(error, OSError | ImportError | ValueError):
        return StorageError(f"{url} cannot be used{_detail(error)}")
    if type(error).__module__.startswith((*_S3_CLIENTS, *_OTHER_CLIENTS)):
        return StorageError(f"{url} cannot be reached{_detail(error)}")
    return None


def _http_status(error: BaseException) -> int | None:
    """The HTTP status of a store's answer, which the clients keep in different places."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp, azure, gcsfs; httpx and requests keep it in their response
            found = (
                getattr(place, name, None) for place in (one, response) for name in ("status", "status_code", "code")
            )
            status = next((value for value in found if isinstance(value, int)), None)
        if isinstance(status, int):
            return status
    return None


def _detail(error: BaseException) -> str:
    """The first line of the library's message, to follow our own sentence; some stores give none ("None"). A line that
    ends with a colon has its point in the next one.
    """
    first, *others = str(error).splitlines() or [""]
    line = f"{first} {others[0]}" if first.endswith(":") and others else first
    return "" if line in ("", "None") else f": {line[:MAX_DETAIL]}"
