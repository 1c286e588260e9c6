"""Reads from a checkpoint folder the tensors that generation needs, and accounts for every other one in its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from actors.checkpoint.config import identify
from actors.checkpoint.files import TEXT_MODEL_STEMS, find_weight_files, read_json
from actors.checkpoint.folder import LocalFolder
from actors.checkpoint.tensors import open_tensor_file
from actors.checkpoint.weight_names import Shapes, expected_shapes, original_name, what_is_not_needed
from actors.errors import CheckpointError

_MAX_NAMES_SHOWN = 8


def load_weights(
    folder: Path, family: str, *, dtype: torch.dtype, device: str | torch.device
) -> dict[str, torch.Tensor]:
    """Every tensor that generation needs, under its original-layout name, in `dtype` on `device`.

    Reads both layouts and both formats (.safetensors, .bin), whole or in shards, and only these tensors. Each is a
    copy in memory of its own, so that its alignment, on which a library's choice of kernel may depend, does not follow
    from its place in the file.

    Raises CheckpointError where the folder is not of this family, a file is damaged, a tensor is missing or of another
    shape than config.json says, or a tensor is there that is neither needed nor named in `weight_names.NOT_NEEDED`.
    """
    source = LocalFolder(Path(folder), str(folder))
    config = read_json(source, "config.json")
    found, layout = identify(config) or (None, None)
    if found != family:
        raise CheckpointError(f"{folder} was to be loaded as {family}, but its config.json describes {found}")
    expected = expected_shapes(config)
    _, file_names = find_weight_files(source, TEXT_MODEL_STEMS)
    files = [open_tensor_file(Path(folder) / file_name) for file_name in file_names]

    where = {}  # original-layout name -> (file, name in that file)
    for file in files:
        for stored_name in file.shapes:
            name = original_name(stored_name) if layout == "transformers" else stored_name
            if name in where:
                raise CheckpointError(
                    f"{stored_name} stands twice in {folder}: in {where[name][0].path} and {file.path}"
                )
            where[name] = file, stored_name
    _check_all_is_accounted_for(folder, expected, {name: file.shapes[key] for name, (file, key) in where.items()})
    return {name: where[name][0].read(where[name][1]).to(device, dtype, copy=True) for name in expected}


def _check_all_is_accounted_for(folder: Path, expected: Shapes, found: Shapes) -> None:
    """Raise CheckpointError unless `found` is `expected` and things named as not needed."""
    missing = expected.keys() - found.keys()
    if missing:
        raise CheckpointError(f"{folder} lacks {_count(missing)} that its config.json asks for: {_some(missing)}")
    unexpected = [name for name in found if name not in expected and what_is_not_needed(name) is None]
    if unexpected:
        raise CheckpointError(
            f"{folder} holds {_count(unexpected)} that no Janus model has: {_some(unexpected)}; "
            "an adapter must be merged into the weights, and quantized weights cannot be read"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{name} of {folder} has shape {list(found[name])}, its config.json means {list(shape)}"
            )


def _count(names: Iterable[str]) -> str:
    num_names = len(list(names))
    return "1 tensor" if num_names == 1 else f"{num_names} tensors"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _MAX_NAMES_SHOWN} more" if len(ordered) > _MAX_NAMES_SHOWN else ""
    return ", ".join(ordered[:_MAX_NAMES_SHOWN]) + more
