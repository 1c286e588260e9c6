"""Reads a small JSON file that came from somewhere else: one object, or an error of one sentence."""

from __future__ import annotations

import json
from typing import Any

from actors.errors import CheckpointError, one_line, shown

MAX_BYTES = 2**26  # a tokenizer.json of 250,000 tokens has 2**25

_LFS_POINTER = b"version https://git-lfs"
_BOMS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The object in a JSON file's bytes. Messages call the file `name`. Raises CheckpointError."""
    if fault := _fault_of_bytes(data):
        raise CheckpointError(f"{name} must be JSON in UTF-8; it {fault}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise CheckpointError(f"{name} must be JSON that is nested less deeply; its brackets are too deep") from error
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {one_line(str(error))}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} must hold a JSON object, got {shown(value)}, a {type(value).__name__}")
    return value


def is_lfs_pointer(data: bytes) -> bool:
    """Whether this is the text that Git leaves in a file's stead until `git lfs pull`."""
    return data.startswith(_LFS_POINTER)


def _fault_of_bytes(data: bytes) -> str | None:
    """What a file obviously is instead of JSON, or None."""
    if len(data) > MAX_BYTES:
        return f"has more than {MAX_BYTES:,} bytes"
    if not data.strip():
        return "is empty"
    if is_lfs_pointer(data):
        return "is a Git LFS pointer: run `git lfs pull`"
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return f"begins with the byte order mark of {encoding}: save it as UTF-8 without one"
    if b"\0" in data[:4]:
        return "holds NUL bytes: it is binary, or text in UTF-16 or UTF-32"
    if data.lstrip().startswith(b"<"):
        return "is a page of HTML or XML, such as a download leaves that was refused or needs a login"
    return None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return fields
