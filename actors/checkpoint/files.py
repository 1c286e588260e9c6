"""Which files of a model folder a render needs, and whether they are all present, from names and sizes alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actors.checkpoint.json_file import MAX_BYTES, is_lfs_pointer, parse_object
from actors.errors import CheckpointError, one_line, shown

TEXT_MODEL_STEMS = ("model", "pytorch_model")
VAE_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
_LFS_POINTER_MAX_BYTES = 1024
_MAX_NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a model folder: its size in bytes, and its SHA-256 where the store already knows it.

    `fault` says why it cannot be read, such as "is a folder"; None for a regular file.
    """

    name: str
    size: int
    sha256: str | None = None
    fault: str | None = None


class SmallFiles(Protocol):
    """The part of a folder that this module uses: its name in messages, its listing, the content of a small file."""

    name: str

    def files(self) -> Mapping[str, StoredFile]: ...

    def read(self, file_name: str) -> bytes: ...


def read_json(folder: SmallFiles, file_name: str) -> dict[str, Any]:
    """The object in a small JSON file of the folder. Raises CheckpointError if it is missing or not an object."""
    files = folder.files()
    if file_name not in files:
        raise CheckpointError(
            f"{folder.name} holds no {file_name}, so it is not a model folder; it holds {_some(files)}"
        )
    check_readable(folder, file_name)
    if files[file_name].size > MAX_BYTES:
        raise CheckpointError(
            f"{file_name} of {folder.name} must have at most {MAX_BYTES:,} bytes, got {files[file_name].size:,}"
        )
    return parse_object(folder.read(file_name), f"{file_name} of {folder.name}")


def check_readable(folder: SmallFiles, file_name: str) -> None:
    """Raise CheckpointError unless this entry of the folder is a regular file."""
    if fault := folder.files()[file_name].fault:
        raise CheckpointError(f"{file_name} of {folder.name} must be a file; it {fault}")


def find_weight_files(folder: SmallFiles, stems: tuple[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The index file (None for a single file) and the weight files, in order. `.safetensors` wins over `.bin`.

    `stems` are the file names of the two formats without their endings. Raises CheckpointError if a file is missing,
    empty or only a Git LFS pointer.
    """
    files = folder.files()
    candidates = [f"{stems[0]}.safetensors", f"{stems[1]}.bin"]
    found = [name for single in candidates for name in (single, f"{single}.index.json") if name in files]
    if found and files[found[0]].size == 0 and not files[found[0]].fault and found[1:]:
        raise CheckpointError(f"{found[0]} of {folder.name} is empty; remove it to use {found[1]}")
    if found and found[0].endswith(".json"):
        return _checked(folder, found[0], _shards(folder, found[0]))
    if found:
        return _checked(folder, None, (found[0],))
    raise CheckpointError(
        f"{folder.name} holds no weights: expected {', '.join(candidates)} or either with .index.json and its shards; "
        f"it holds {_some(files)}"
    )


def _shards(folder: SmallFiles, index: str) -> tuple[str, ...]:
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} of {folder.name} must hold a weight_map: an object of tensor and file names")
    names = sorted({name if isinstance(name, str) else shown(name) for name in weight_map.values()})
    for name in names:
        if "/" in name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(
                f"{index} of {folder.name} names {shown(name)}, which is not a weight file of that folder"
            )
    return tuple(names)


def _checked(folder: SmallFiles, index: str | None, names: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    files = folder.files()
    missing = [name for name in names if name not in files]
    if missing:
        raise CheckpointError(
            f"{folder.name} is incomplete: {index} names {len(names)} weight files and {len(missing)} of them "
            f"are missing: {_some(missing)}"
        )
    for name in names:
        check_readable(folder, name)
        if files[name].size == 0:
            raise CheckpointError(f"{name} of {folder.name} is empty")
        if files[name].size < _LFS_POINTER_MAX_BYTES and is_lfs_pointer(folder.read(name)):
            raise CheckpointError(f"{name} of {folder.name} is a Git LFS pointer, not the weights: run `git lfs pull`")
    return index, names


def _some(names: Collection[str]) -> str:
    first = ", ".join(one_line(name) for name in sorted(names)[:_MAX_NAMES_SHOWN]) or "no files"
    return f"{first} and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else first
