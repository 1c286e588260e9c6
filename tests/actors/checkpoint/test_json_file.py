"""JSON files that are something else are refused in one short sentence."""

from __future__ import annotations

import pytest

from actors.checkpoint.json_file import MAX_BYTES, parse_object
from actors.errors import CheckpointError


def test_an_object_in_utf8_is_read() -> None:
    assert parse_object('{"a": [1, "é"], "b": {}}'.encode(), "x.json") == {"a": [1, "é"], "b": {}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"<!doctype html><title>Sign in</title>", "is a page of HTML"),
        (b"\n<html>", "is a page of HTML"),
        (b'<?xml version="1.0"?><Error/>', "is a page of HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer: run `git lfs pull`"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark of UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "byte order mark of UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "NUL bytes: it is binary, or text in UTF-16"),
        ('{"a": 1}'.encode("utf-32-be"), "NUL bytes"),
        (b'{"a": "\xff"}', "is not valid JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "nested less deeply"),
        (b'{"a":' * 100_000, "nested less deeply"),
        (b'{"a": 1', "is not valid JSON: Expecting"),
        (b"\x80\x04", "is not valid JSON"),
        (b'{"n": ' + b"1" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        (b"[1]", r"must hold a JSON object, got \[1\], a list"),
        (b"3", "must hold a JSON object, got 3, a int"),
        (b"null", "must hold a JSON object, got None"),
        (b"NaN", "must hold a JSON object, got nan"),
        (b'"' + b"x" * 10_000 + b'"', "must hold a JSON object, got 'xx"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b"x" * (MAX_BYTES + 1), "has more than 67,108,864 bytes"),
    ],
)
def test_a_file_of_something_else_is_named_as_that(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_object(data, "x.json")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
