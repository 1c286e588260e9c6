"""The formats of prompt files. The ending of a file's name says its format; compressed text has a second ending."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PARQUET, CSV, JSONL, TEXT, ARROW = "Parquet", "CSV", "JSON lines", "text", "Arrow"
ENDINGS = {
    ".parquet": PARQUET,
    ".csv": CSV,
    ".tsv": CSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".json": JSONL,
    ".txt": TEXT,
    ".arrow": ARROW,
    ".feather": ARROW,
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}  # by fsspec's names
COMPANION_ENDINGS = (".txt", ".json")  # readmes and metadata, if a folder has prompt files with another ending
ALLOWED = "Parquet, CSV, TSV, JSON lines, text or Arrow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """`ending` is the part of the name that says the format, without that of the compression; empty if none does."""

    name: str
    ending: str
    compression: str | None = None


def format_of(path: str) -> Format:
    """The format of a file; Parquet if its name has no known ending."""
    stem, compression = path.lower(), None
    for ending, name in COMPRESSIONS.items():
        if stem.endswith(ending):
            stem, compression = stem.removesuffix(ending), name
    for ending, name in ENDINGS.items():
        if stem.endswith(ending) and (compression is None or name in (CSV, JSONL, TEXT)):
            return Format(name=name, ending=ending, compression=compression)
    return Format(name=PARQUET, ending="")


def prompts_among(paths: Iterable[str]) -> list[str]:
    """The files of a folder that hold prompts: those whose names say a format, without readmes and metadata."""
    endings = {path: format_of(path).ending for path in paths}
    named = [path for path, ending in endings.items() if ending]
    return [path for path in named if endings[path] not in COMPANION_ENDINGS] or named


def without_ending(name: str) -> str:
    """The name of a prompt file without the ending of its format, for the ids of its rows."""
    found = format_of(name)
    if found.name == PARQUET:
        return name.removesuffix(".parquet")
    if found.compression is not None:
        name = name.rpartition(".")[0]
    return name[: -len(found.ending)]


def names_with_same_ids(name: str) -> list[str]:
    """The names of the same file in other formats, whose rows would have the same ids."""
    stem = without_ending(name)
    names = [f"{stem}{ending}{compression}" for ending in ENDINGS for compression in ("", *COMPRESSIONS)]
    return [other for other in names if other != name and without_ending(other) == stem]
