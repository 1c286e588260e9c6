"""Errors of storage: one clear sentence for each, and which are worth a retry."""

from __future__ import annotations

import botocore.exceptions
import pytest

from workflows.storage.errors import StorageError, is_transient, storage_errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), "s3://b/o is not there: .*No such file"),
        (FileNotFoundError("None"), "s3://b/o is not there$"),
        (PermissionError("Forbidden"), "s3://b/o may not be used with the credentials given: Forbidden"),
        (OSError(28, "No space left on device"), "s3://b/o cannot be used: .*No space left on device"),
        (ImportError("Install gcsfs"), "s3://b/o cannot be used: Install gcsfs"),
        (botocore.exceptions.NoCredentialsError(), "s3://b/o cannot be reached: Unable to locate credentials"),
    ],
)
def test_an_error_of_a_library_becomes_one_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(StorageError, match=sentence), storage_errors("s3://b/o"):
        raise error


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(KeyError), storage_errors("s3://b/o"):
        raise KeyError("bug")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(5, "We encountered an internal error"), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (NotADirectoryError(), False),
        (StorageError("wrong bucket"), False),
        (ValueError("bug"), False),
    ],
)
def test_only_transient_errors_are_worth_a_retry(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected
