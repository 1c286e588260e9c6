"""One clear sentence for a Parquet or tar file whose bytes are damaged, in place of what its reader raises."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from actors.errors import InputError


class DamagedFileError(InputError):
    """A file was read whole and is not what it should be: trying again reads the same bytes."""


@contextmanager
def damage_errors(what: str, remedy: str = "") -> Iterator[None]:
    """Raise DamagedFileError naming `what`, and a remedy, for bytes that cannot be decoded; errors of storage pass."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, tarfile.TarError) as error:
        raise DamagedFileError(f"{what} cannot be read, it is damaged: {error}{remedy}") from error
    except OSError as error:
        # Arrow's own OSErrors (a damaged footer or page) have no number, those of storage do.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise DamagedFileError(f"{what} cannot be read, it is damaged: {error}{remedy}") from error
