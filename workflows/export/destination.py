"""The destination of an export: whose it is, which shards are in it, and whether it holds exactly their files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actors.errors import JobFailure
from workflows.export.layouts.layout import ExportError, ExportLayout, Written
from workflows.output.claim import check_not_among_files
from workflows.storage.path import folders_around
from workflows.storage.store import Storage, is_draft

MARKS = ".export"  # readers of data folders skip names that begin with a dot
CLAIM_FILE, CARD_FILE = f"{MARKS}/claim.json", "README.md"
# The id of a shard is in the name, or the file is in a Lance dataset; in a benchmark's folder, prompts have files.
_OF_A_SHARD = re.compile(r"-[0-9a-f]{12}-[0-9a-f]{8}-\d{9}-\d{9}|^data/[^/]+\.lance/")
_OF_A_PROMPT = re.compile(r"^(w[^/]+/)?(images/[^/]+\.png|\d{5,}/(metadata\.jsonl|samples/\d{4,}\.png))$")


class FilesMissingError(JobFailure):
    """The destination holds fewer files than were written to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """The record of an exported shard: `digest` of its rows, the counts of each split ("" in a dataset without splits),
    the names of its files, and the details by split that complete the dataset."""

    digest: str
    written: dict[str, Written]
    names: list[str]
    details: dict[str, list[str]]


def claim_destination(dest: Storage, source: Storage, claim: dict[str, Any]) -> None:
    """Write the claim into an empty folder, or check that it is the same. Raises ExportError."""
    check_apart(dest, source)
    text = json.dumps(claim, indent=2) + "\n"
    if not dest.exists(CLAIM_FILE):
        if any(not is_draft(name) for name in dest.walk_names()):
            raise ExportError(
                f"{dest.url} holds files and is not an export of janus-batch; export into an empty folder"
            )
        _check_no_export_around(dest)
        check_not_among_files(dest)
        if dest.create(CLAIM_FILE, text.encode()):
            return
    _check_claim(dest, claim)


def _check_no_export_around(dest: Storage) -> None:
    """Raise ExportError for a folder in an export, whose next run would remove files that are not its own."""
    for folder, _ in folders_around(dest.url):
        with contextlib.suppress(PermissionError):
            if Storage(folder, dest.options).exists(CLAIM_FILE):
                raise ExportError(f"{dest.url} is inside the export {folder}; export into a folder outside of it")


def check_apart(dest: Storage, source: Storage) -> None:
    """Raise ExportError for a destination inside the output."""
    if f"{_real_root(dest)}/".startswith(f"{_real_root(source)}/"):
        raise ExportError(f"{dest.url} is inside the output {source.url}; export into a folder outside of it")


def read_mark(dest: Storage, shard_id: str) -> Mark | None:
    """The mark of a shard that is already exported; None if it is missing or damaged."""
    try:
        mark = json.loads(dest.read(_mark_name(shard_id)))
        written = {str(split): Written(**_checked(counts)) for split, counts in mark["written"].items()}
        details = {str(split): [str(detail) for detail in found] for split, found in mark["details"].items()}
        names = [str(name).encode().decode() for name in mark["names"]]
        return Mark(digest=str(mark["digest"]), written=written, names=names, details=details)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _checked(counts: dict[str, Any]) -> dict[str, int]:
    """Raises ValueError for counts that no export wrote."""
    if any(type(number) is not int or number < 0 for number in counts.values()):
        raise ValueError("a count must be a whole number")
    return counts


def write_mark(dest: Storage, shard_id: str, mark: Mark) -> None:
    dest.write(_mark_name(shard_id), (json.dumps(asdict(mark)) + "\n").encode())


class ExpectedFiles:
    """The files of all shards, held as 12 bytes each, to compare with what the destination holds."""

    def __init__(self, layout: ExportLayout) -> None:
        self._layout, self._began = layout, time.monotonic()
        self._hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self._shard_ids: list[str] = []

    def add(self, shard_id: str, names: Sequence[str]) -> None:
        self._hashes.append(np.array([_hash(name) for name in names], np.uint64))
        self._shard_ids.append(shard_id)

    def check(self, dest: Storage, others: Sequence[str]) -> int:
        """Remove files that an interrupted or earlier export wrote and no shard has now, and return their number.

        Drafts that are older than this export are removed, too, and not counted. `others` are the files of the dataset
        as a whole. Raises FilesMissingError if files are missing, and then forgets the marks of their shards, so that
        the next export writes them again.
        """
        expected = np.concatenate([*self._hashes, np.array([_hash(name) for name in others], np.uint64)])
        order = np.argsort(expected)
        is_found, num_removed = np.zeros(len(expected), bool), 0
        for name in dest.walk_names():
            if is_draft(name):
                self._remove_draft(dest, name)
                continue
            if name == CARD_FILE or name.startswith(f"{MARKS}/"):
                continue
            position = int(np.searchsorted(expected, value := np.uint64(_hash(name)), sorter=order))
            if position < len(expected) and expected[order[position]] == value:
                is_found[order[position]] = True
            elif is_of_an_export(name, self._layout):
                dest.remove(name)
                num_removed += 1
        if not is_found.all():
            self._forget(dest, is_found)
            raise FilesMissingError(
                f"{dest.url} holds {is_found.sum():,} data files, but {len(expected):,} were written to it"
            )
        return num_removed

    def _remove_draft(self, dest: Storage, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # of a write that has just ended
            if dest.age(name) > time.monotonic() - self._began:
                dest.remove(name)

    def _forget(self, dest: Storage, is_found: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        start = 0
        for shard_id, hashes in zip(self._shard_ids, self._hashes, strict=True):
            if not is_found[start : start + len(hashes)].all():
                dest.remove(_mark_name(shard_id))
            start += len(hashes)


def is_of_an_export(name: str, layout: ExportLayout) -> bool:
    """Whether exports in this layout give files such a name. What a person puts into the folder has another one, and is
    not touched.
    """
    patterns = [_OF_A_SHARD, _OF_A_PROMPT] if layout.files_per == "prompt" else [_OF_A_SHARD]
    return any(pattern.search(name) for pattern in patterns)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def read_claim_of_export(dest: Storage) -> dict[str, Any]:
    """The claim of an export. Raises ExportError for a damaged one."""
    try:
        claim = json.loads(dest.read(CLAIM_FILE))
    except ValueError:
        claim = None
    if not isinstance(claim, dict) or not isinstance(claim.get("c2pa") or {}, dict):
        raise ExportError(f"{dest.url}/{CLAIM_FILE} is damaged; export into an empty folder")
    return claim


def _check_claim(dest: Storage, claim: dict[str, Any]) -> None:
    theirs = read_claim_of_export(dest)
    for field, ours in claim.items():
        if theirs.get(field) != ours:
            shown = (theirs.get(field), ours) if field != "recipe" else ("another recipe", "its own")
            raise ExportError(
                f"{dest.url} is an export of {field} {_shown(shown[0])}, this one has {_shown(shown[1])}; export into "
                "another folder"
            )


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _mark_name(shard_id: str) -> str:
    return f"{MARKS}/{shard_id}.json"


def _real_root(storage: Storage) -> str:
    """The folder without symbolic links on local disks, the URL elsewhere."""
    return os.path.realpath(storage.root) if storage.is_local else storage.url
