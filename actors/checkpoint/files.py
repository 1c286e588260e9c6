"""Which files of a model folder a render needs, and whether they are all present, from names and sizes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actors.errors import CheckpointError

TEXT_MODEL_STEMS = ("model", "pytorch_model")
VAE_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
_LFS_POINTER = b"version https://git-lfs"
_LFS_POINTER_MAX_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a model folder: its size in bytes, and its SHA-256 where the store already knows it."""

    name: str
    size: int
    sha256: str | None = None


class SmallFiles(Protocol):
    """The part of a folder that this module uses: its name in messages, its listing, the content of a small file."""

    name: str

    def files(self) -> Mapping[str, StoredFile]: ...

    def read(self, file_name: str) -> bytes: ...


def read_json(folder: SmallFiles, file_name: str) -> dict[str, Any]:
    """The object in a small JSON file of the folder. Raises CheckpointError if it is missing or not an object."""
    if file_name not in folder.files():
        raise CheckpointError(
            f"{folder.name} holds no {file_name}, so it is not a model folder; it holds {_some(folder.files())}"
        )
    try:
        value = json.loads(folder.read(file_name))
    except ValueError as error:
        raise CheckpointError(f"{file_name} of {folder.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file_name} of {folder.name} must hold a JSON object, got a {type(value).__name__}")
    return value


def find_weight_files(folder: SmallFiles, stems: tuple[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The index file (None for a single file) and the weight files, in order. `.safetensors` wins over `.bin`.

    `stems` are the file names of the two formats without their endings. Raises CheckpointError if a file is missing,
    empty or only a Git LFS pointer.
    """
    files = folder.files()
    candidates = [f"{stems[0]}.safetensors", f"{stems[1]}.bin"]
    for single in candidates:
        index = f"{single}.index.json"
        if single in files:
            return _checked(folder, None, (single,))
        if index in files:
            return _checked(folder, index, _shards(folder, index))
    raise CheckpointError(
        f"{folder.name} holds no weights: expected {', '.join(candidates)} or either with .index.json and its shards; "
        f"it holds {_some(files)}"
    )


def _shards(folder: SmallFiles, index: str) -> tuple[str, ...]:
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} of {folder.name} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if "/" in name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index} of {folder.name} names {name!r}, which is not a weight file of that folder")
    return tuple(names)


def _checked(folder: SmallFiles, index: str | None, names: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    files = folder.files()
    missing = [name for name in names if name not in files]
    if missing:
        raise CheckpointError(
            f"{folder.name} is incomplete: {index} names {len(names)} weight files and {len(missing)} of them "
            f"are missing: {', '.join(missing)}"
        )
    for name in names:
        if files[name].size == 0:
            raise CheckpointError(f"{name} of {folder.name} is empty")
        if files[name].size < _LFS_POINTER_MAX_BYTES and folder.read(name).startswith(_LFS_POINTER):
            raise CheckpointError(f"{name} of {folder.name} is a Git LFS pointer, not the weights: run `git lfs pull`")
    return index, names


def _some(files: Mapping[str, StoredFile]) -> str:
    names = sorted(files)
    shown = ", ".join(names[:8]) or "no files"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
