"""Which files of a model folder a render needs, and whether they are all present, from names and sizes alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.checkpoint.json_file import MAX_BYTES, is_lfs_pointer, parse_object
from actors.errors import CheckpointError, one_line, shown

TEXT_MODEL_STEMS = ("model", "pytorch_model")
VAE_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
_ENDINGS = (".safetensors", ".bin")
_OTHER_ENDINGS = (".pt", ".pth", ".ckpt")  # files of `torch.save`, like .bin
_TRAINING = re.compile(r"adapter_model|training_args|optimizer|scheduler|rng_state|scaler")  # next to the weights
_SHARD = re.compile(r"-\d+-of-(\d+)\.")
_HEADER_MAX_BYTES = 2**18  # the header of a 7B model's safetensors file has half as many
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


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The weight files of a folder, in order, and their index (None without one).

    `note` says which other weights of the folder were passed over, and why.
    """

    index: str | None
    names: tuple[str, ...]
    note: str | None = None


class SmallFiles(Protocol):
    """The part of a folder that this module uses: its name in messages, its listing, the content of a small file."""

    name: str

    def files(self) -> Mapping[str, StoredFile]: ...

    def read(self, file_name: str) -> bytes: ...


def read_json(folder: SmallFiles, file_name: str, *, kind: str = "a model folder") -> dict[str, Any]:
    """The object in a small JSON file of the folder. Raises CheckpointError if it is missing or not an object.

    `kind` is what a folder without the file is not.
    """
    files = folder.files()
    if file_name not in files:
        raise CheckpointError(f"{folder.name} holds no {file_name}, so it is not {kind}; it holds {some(files)}")
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


def find_weight_files(folder: SmallFiles, stems: tuple[str, str]) -> WeightFiles:
    """The weight files of a folder. `.safetensors` wins over `.bin`, and one file over shards.

    `stems` are the file names of the two formats without their endings. Weights that cannot be read, because a file is
    missing, empty or only a Git LFS pointer, are passed over with a note if the folder holds others. Raises
    CheckpointError for the first fault if it holds none.
    """
    candidates = list(_candidates(folder.files(), stems))
    fault: CheckpointError | None = None
    for index, names in candidates:
        try:
            found = _checked(folder, index, _shards(folder, index) if index else names)
        except CheckpointError as error:
            fault = fault or error
        else:
            note = f"{fault}; {index or names[0]} is used in its place" if fault else None
            return WeightFiles(index=index, names=found, note=note)
    if fault:
        raise fault
    expected = ", ".join(f"{stem}{ending}" for stem, ending in zip(stems, _ENDINGS, strict=True))
    raise CheckpointError(
        f"{folder.name} holds no weights: expected {expected} or either with .index.json and its shards; "
        f"{_what_is_there(folder.files(), stems)}"
    )


def _what_is_there(files: Collection[str], stems: tuple[str, str]) -> str:
    """What a folder without weights holds: a part of the shards, one file that may be the weights, or other files."""
    found = sorted(name for name in files if name.endswith((*_ENDINGS, *_OTHER_ENDINGS)) and not _TRAINING.match(name))
    shards = [int(shard[1]) for shard in map(_SHARD.search, found) if shard]
    if shards and len(shards) < shards[0]:
        return f"it holds {len(shards)} of {shards[0]} shards"
    if len(found) != 1:
        return f"it holds {some(files)}"
    stem, ending = (stems[0], ".safetensors") if found[0].endswith(".safetensors") else (stems[1], ".bin")
    return f"if {one_line(found[0])} holds them, name it {stem}{ending}"


def _candidates(files: Collection[str], stems: tuple[str, str]) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Every set of weight files that a folder may mean, the best first: an index, or the names of files without one.

    transformers writes a variant, such as `fp16`, into the names: model.fp16.safetensors, or
    model.safetensors.index.fp16.json with its shards model.fp16-00001-of-00002.safetensors.
    """
    for stem, ending in zip(stems, _ENDINGS, strict=True):
        stem, ending = re.escape(stem), re.escape(ending)
        yield from ((None, (name,)) for name in _matching(rf"{stem}{ending}", files))
        yield from ((name, ()) for name in _matching(rf"{stem}{ending}\.index\.json", files))
        yield from _without_index(_matching(rf"{stem}-\d+-of-\d+{ending}", files))
    for stem, ending in zip(stems, _ENDINGS, strict=True):
        stem, ending = re.escape(stem), re.escape(ending)
        yield from ((None, (name,)) for name in _matching(rf"{stem}\.\w+{ending}", files))
        yield from ((name, ()) for name in _matching(rf"{stem}{ending}\.index\.\w+\.json", files))


def _matching(pattern: str, files: Collection[str]) -> list[str]:
    return sorted(name for name in files if re.fullmatch(pattern, name))


def _without_index(shards: Sequence[str]) -> Iterator[tuple[None, tuple[str, ...]]]:
    """Shards whose names say that none is missing: an index would name the same files."""
    if shards and len(shards) == int(re.findall(r"\d+", shards[0])[-1]):
        yield None, tuple(shards)


def _shards(folder: SmallFiles, index: str) -> tuple[str, ...]:
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} of {folder.name} must hold a weight_map: an object of tensor and file names")
    names = sorted({name if isinstance(name, str) else shown(name) for name in weight_map.values()})
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(_ENDINGS):
            raise CheckpointError(
                f"{index} of {folder.name} names {shown(name)}, which is not a weight file of that folder"
            )
    return tuple(names)


def _checked(folder: SmallFiles, index: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    files = folder.files()
    missing = [name for name in names if name not in files]
    if missing:
        raise CheckpointError(
            f"{folder.name} is incomplete: {index} names {len(names)} weight files and {len(missing)} of them "
            f"are missing: {some(missing)}"
        )
    for name in names:
        check_readable(folder, name)
        if files[name].size < _HEADER_MAX_BYTES:
            _check_is_not_empty(folder, name)
    return names


def _check_is_not_empty(folder: SmallFiles, name: str) -> None:
    """Raise CheckpointError for a small file without values: an empty one, a pointer, or a header alone."""
    data = folder.read(name) if folder.files()[name].size else b""
    if is_lfs_pointer(data):
        raise CheckpointError(f"{name} of {folder.name} is a Git LFS pointer, not the weights: run `git lfs pull`")
    # A safetensors file begins with the length of its header. DeepSpeed (ZeRO 3) leaves one with tensors of no values.
    is_header = name.endswith(".safetensors") and 8 + int.from_bytes(data[:8], "little") == len(data)
    if not data or is_header:
        raise CheckpointError(f"{name} of {folder.name} is empty")


def some(names: Collection[str], *, most: int = _MAX_NAMES_SHOWN) -> str:
    """The first names of a listing, for messages."""
    first = ", ".join(one_line(name) for name in sorted(names)[:most]) or "no files"
    return f"{first} and {len(names) - most} more" if len(names) > most else first
