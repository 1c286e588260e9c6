"""The destination of an export: whose it is, which shards are in it, and whether it holds the files that it should."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from actors.errors import JobFailure
from workflows.export.layout import ExportError, Written
from workflows.storage.store import Storage

MARKS = ".export"  # readers of data folders skip names that begin with a dot
CLAIM_FILE, CARD_FILE = f"{MARKS}/claim.json", "README.md"
DRAFT = ".draft"  # the end of a file name that an interrupted write left


class FilesMissingError(JobFailure):
    """The destination holds fewer files than were written to it."""


def claim_destination(dest: Storage, source: Storage, claim: dict[str, Any]) -> None:
    """Write the claim into an empty folder, or check that it is the same. Raises ExportError."""
    if f"{_real_root(dest)}/".startswith(f"{_real_root(source)}/"):
        raise ExportError(f"{dest.url} is inside the output {source.url}; export into a folder outside of it")
    text = json.dumps(claim, indent=2) + "\n"
    if not dest.exists(CLAIM_FILE):
        if dest.walk(""):
            raise ExportError(
                f"{dest.url} holds files and is not an export of janus-batch; export into an empty folder"
            )
        if dest.create(CLAIM_FILE, text.encode()):
            return
    _check_claim(dest, claim)


def read_mark(dest: Storage, part: str, schema: pa.Schema) -> Written | None:
    """The counts of a shard that is already exported with these columns, by its last part; else None."""
    try:
        mark = json.loads(dest.read(_mark_name(part)))
        return Written(**mark["written"]) if mark["columns"] == _digest(schema) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # missing or damaged
        return None


def write_mark(dest: Storage, part: str, schema: pa.Schema, written: Written) -> None:
    mark = {"written": asdict(written), "columns": _digest(schema)}
    dest.write(_mark_name(part), (json.dumps(mark) + "\n").encode())


def check_files(dest: Storage, written: Written) -> None:
    """Raise FilesMissingError if the destination holds fewer data files than `written`; then forget its marks, so that
    the next export writes every shard again."""
    names = [name for name in dest.walk("") if name != CARD_FILE and not name.endswith(DRAFT)]
    num_files = sum(not name.startswith(f"{MARKS}/") for name in names)
    if num_files >= written.num_files:
        return
    for name in names:
        if name.startswith(f"{MARKS}/") and name != CLAIM_FILE:
            dest.remove(name)
    raise FilesMissingError(f"{dest.url} holds {num_files:,} data files, but {written.num_files:,} were written to it")


def _check_claim(dest: Storage, claim: dict[str, Any]) -> None:
    try:
        theirs = json.loads(dest.read(CLAIM_FILE))
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        raise ExportError(f"{dest.url}/{CLAIM_FILE} is damaged; export into an empty folder")
    for field, ours in claim.items():
        if theirs.get(field) != ours:
            shown = (theirs.get(field), ours) if field != "recipe" else ("another recipe", "its own")
            raise ExportError(
                f"{dest.url} is an export of {field} {shown[0]}, this one has {shown[1]}; export into another folder"
            )


def _mark_name(part: str) -> str:
    return f"{MARKS}/{part}.json"


def _real_root(storage: Storage) -> str:
    """The folder without symbolic links on local disks, the URL elsewhere."""
    return os.path.realpath(storage.root) if storage.is_local else storage.url


def _digest(schema: pa.Schema) -> str:
    return hashlib.sha256(str(schema).encode()).hexdigest()[:16]
