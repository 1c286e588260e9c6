"""What a file is that should be Parquet and cannot be read: something else, by its first bytes, or not supported."""

from __future__ import annotations

import re

import pyarrow as pa

HEAD_BYTES = 1024  # that `foreign_kind` looks at

# How files that are no Parquet files begin, and what they are.
FOREIGN_FILES = (
    (rb"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file"),
    (rb"\s*<(!doctype|html|\?xml)", "an HTML or XML page, as web servers answer errors"),
    (rb"ARROW1|FEA1|\xff\xff\xff\xff", "Arrow IPC or Feather"),
    (rb"PK\x03\x04", "a zip archive or an Excel workbook"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file"),
    (rb"7z\xbc\xaf", "a 7-Zip archive"),
    (rb"ORC", "ORC"),
    (rb".{257}ustar", "a tar archive"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb".{8}\{\s*\"", "safetensors"),
    (rb"Obj\x01", "Avro"),
    (rb"SQLite format 3|.{8}DUCK", "a database"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|%PDF", "an image or a document"),
    (rb"[\xef\xbb\xbf\s]*[\[{]", "JSON or JSON lines"),
)


# What Arrow says about codecs, encryption and types that it cannot read, where it does not say "not implemented".
_UNSUPPORTED = re.compile(
    r"currently not supported|unsupported compression codec|decrypt|encrypt|too deeply nested", re.IGNORECASE
)


def is_unsupported(error: Exception) -> bool:
    """Whether an error of a reader says that a file is right, and uses what this reader does not support."""
    return isinstance(error, pa.ArrowNotImplementedError) or _UNSUPPORTED.search(str(error)) is not None


def foreign_kind(head: bytes) -> str | None:
    """What a file without a Parquet footer is, given its first bytes; None if it may be a damaged Parquet file."""
    if not head:
        return "empty (0 bytes)"
    if head.startswith(b"PARE"):
        return "encrypted; decrypt it first"
    if head.startswith(b"PAR1"):
        return None
    for pattern, name in FOREIGN_FILES:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return name
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head):
        return "CSV or other text"
    return None
