"""What goes wrong with storage: one clear sentence for each error of a storage library, and which errors may pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from actors.errors import InputError, JobFailure

# Errors of storage that a retry does not fix.
LASTING_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_S3_CLIENTS = ("botocore", "aiobotocore", "aiohttp")
_OTHER_CLIENTS = ("gcsfs", "adlfs")


class StorageError(InputError):
    """A folder cannot be read or written as the user named it: wrong address, credentials, permissions or path."""


class StorageFailure(JobFailure):
    """Storage worked and then stopped in a way that waiting does not fix: a full disk, expired credentials."""


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a storage library raises for a wrong address, credentials or permissions into a StorageError."""
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
        if not type(error).__module__.startswith((*_S3_CLIENTS, *_OTHER_CLIENTS)):
            raise
        raise StorageError(f"{url} cannot be reached{_detail(error)}") from error


@contextlib.contextmanager
def storage_failures(url: str) -> Iterator[None]:
    """Like `storage_errors`, but raise StorageFailure: once a job is running, storage that breaks fails the job."""
    try:
        with storage_errors(url):
            yield
    except StorageError as error:
        raise StorageFailure(str(error)) from error


def is_transient(error: BaseException) -> bool:
    """Whether a storage error may go away by itself: a lost connection, a timeout, a server that is busy or down."""
    if isinstance(error, StorageError) and error.__cause__ is not None:
        return is_transient(error.__cause__)
    if isinstance(error, LASTING_ERRORS):
        return False
    if isinstance(error, OSError | TimeoutError):
        return True
    return type(error).__module__.startswith(_S3_CLIENTS)


def s3_code(error: BaseException) -> str:
    """The code that an S3 store gave the error from which s3fs made this one; empty for other errors."""
    return str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))


def _detail(error: BaseException) -> str:
    """The first line of the library's message, to follow our own sentence; some stores give none ("None")."""
    line = (str(error).splitlines() or [""])[0]
    return "" if line in ("", "None") else f": {line}"
