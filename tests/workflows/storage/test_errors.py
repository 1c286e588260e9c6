"""Errors of storage: one clear sentence for each, and which are worth a retry."""

from __future__ import annotations

import errno
import socket

import aiohttp
import botocore.exceptions
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from actors.errors import CheckpointUnreachable
from workflows.storage.errors import StorageError, StorageUnreachable, does_not_answer, is_transient, storage_errors

REQUEST = aiohttp.RequestInfo(URL("http://x"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://x"))


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


def s3_answer(status: int, code: str) -> OSError:
    """The error that s3fs makes of a store's answer."""
    response = {"Error": {"Code": code, "Message": "on purpose"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(response, "GetObject"))


def half_an_answer() -> aiohttp.ClientPayloadError:
    """What aiohttp raises for an answer that ends early: its cause has a status of its own."""
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("Not enough data")
    return error


def web_answer(cause: Exception) -> FileNotFoundError:
    """The error that fsspec makes of whatever goes wrong with a web server."""
    error = FileNotFoundError("http://host/file")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="x"),
        botocore.exceptions.ConnectTimeoutError(endpoint_url="x"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="x"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="x"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(),
        aiohttp.ClientResponseError(REQUEST, (), status=503),
        s3_answer(503, "SlowDown"),
        s3_answer(500, "InternalError"),
        s3_answer(502, "Bad Gateway"),
        s3_answer(429, "TooManyRequests"),
        s3_answer(400, "RequestTimeout"),
        CheckpointUnreachable("model.safetensors arrived with 3 bytes instead of 9"),
        web_answer(aiohttp.ClientResponseError(REQUEST, (), status=503)),
        web_answer(aiohttp.ClientConnectionError()),
        web_answer(half_an_answer()),
        web_answer(TimeoutError()),
    ],
)
def test_a_store_that_does_not_answer_now_may_answer_later(error: Exception) -> None:
    assert does_not_answer(error)
    with pytest.raises((StorageUnreachable, CheckpointUnreachable)) as raised, storage_errors("s3://b/o"):
        raise error
    assert does_not_answer(raised.value)
    assert is_transient(StorageUnreachable("s3://b/o cannot be reached"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Invalid endpoint: http:/x"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.SSLError(endpoint_url="x", error="certificate verify failed"),
        aiohttp.ClientResponseError(REQUEST, (), status=401),
        web_answer(aiohttp.ClientResponseError(REQUEST, (), status=404)),
        s3_answer(404, "NoSuchBucket"),
        s3_answer(403, "AccessDenied"),
        s3_answer(403, "SignatureDoesNotMatch"),
        s3_answer(400, "InvalidBucketName"),
        s3_answer(301, "PermanentRedirect"),
        s3_answer(501, "NotImplemented"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.ENOSPC, "No space left on device"),
        StorageError("wrong bucket"),
    ],
)
def test_a_fault_that_lasts_is_not_waited_for(error: Exception) -> None:
    assert not does_not_answer(error)
