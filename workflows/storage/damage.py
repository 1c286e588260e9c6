"""One clear sentence for a Parquet or tar file that cannot be decoded, instead of its reader's exception."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from actors.errors import InputError, one_line, shown
from workflows.storage.foreign import is_unsupported
from workflows.storage.parquet import ForeignFileError


class DamagedFileError(InputError):
    """A file was read completely and cannot be used. A retry would read the same bytes."""


@contextmanager
def damage_errors(what: str, remedy: str = "") -> Iterator[None]:
    """Turn decoding errors into a DamagedFileError that names `what` and ends with `remedy`. Storage errors pass."""
    try:
        yield
    except ForeignFileError as error:
        raise DamagedFileError(f"{what} is no Parquet file, it is {error}{remedy}") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, tarfile.TarError) as error:
        raise _damaged(what, error, remedy) from error
    except OSError as error:
        # Arrow raises a bare OSError without errno for a damaged footer or page; errors of storage have an errno.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise _damaged(what, error, remedy) from error


def _damaged(what: str, error: Exception, remedy: str) -> DamagedFileError:
    if isinstance(error, UnicodeDecodeError):
        detail = f"its metadata has text that is not UTF-8: {shown(error.object)}"
    else:
        detail = one_line(str(error).strip())
    fault = f"pyarrow {pa.__version__} does not support it" if is_unsupported(error) else "the file is damaged"
    return DamagedFileError(f"{what} cannot be read: {fault} ({detail}){remedy}")
