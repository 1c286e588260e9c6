"""The ids of prompt rows: what they may be, since they become names of files, and those of rows without an id."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from workflows.prompt_files.formats import without_ending

MAX_ID_BYTES = 180  # a file name has at most 255 bytes; the rest is for image index, weight and extension


def fault_of_id(prompt_id: str) -> str | None:
    """The rule that an id breaks; None if it breaks none."""
    if not prompt_id or prompt_id.startswith(".") or any(c in "/\\" or not c.isprintable() for c in prompt_id):
        return f"id must be printable text without / or \\ that does not start with a dot, got {prompt_id!r}"
    num_bytes = len(prompt_id.encode()) + 2 * sum(prompt_id.count(c) for c in "#?%")  # written as %23, %3F, %25
    if num_bytes > MAX_ID_BYTES:
        return f"id must have at most {MAX_ID_BYTES} bytes in a file name, got {num_bytes}"
    return None


def default_id(stem: str, number: int) -> str:
    """The id of a row if the file has no `id` column, given the `default_stem` of the file and the row's number."""
    return f"{stem}-{number:09d}"


def default_stem(name: str) -> str:
    """What the default ids of a file's rows begin with, given the name of the file."""
    stem = without_ending(name).replace("/", "~")
    return file_label(name) if fault_of_id(stem) else stem


def file_label(name: str) -> str:
    """`<stem>-<hash of the name>`, which can be part of a file name whatever characters the name has."""
    return f"{safe_stem(name)}-{name_hash(name)}"


def safe_stem(name: str) -> str:
    """The start of the name of a file that is made from a prompt file, without other characters than A-Z, a-z, 0-9, _
    and the dot.
    """
    # Readers of a folder of Parquet files skip names that begin with a dot or an underscore.
    return re.sub(r"[^A-Za-z0-9_.]", "_", PurePosixPath(name).stem)[:40].lstrip("._") or "prompts"


def name_hash(name: str) -> str:
    """12 hex digits from the name of a prompt file, for the ids of its shards."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]
