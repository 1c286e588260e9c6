"""Reads the tensors that generation needs from a fetched checkpoint, and accounts for all others in its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from actors.checkpoint.merge import Merger
from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import TensorFile, open_tensor_file
from actors.errors import CheckpointError, one_line

_MAX_NAMES_SHOWN = 8

# Tables that older versions of transformers stored with the weights. They follow from config.json.
_BUFFERS = (".inv_freq", ".cos_cached", ".sin_cached", ".position_ids")

# What training wraps around a model puts its own name into those of the tensors: DeepSpeed and DistributedDataParallel
# (module), torch.compile (_orig_mod), FSDP and activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

Shapes = dict[str, tuple[int, ...]]


def load_weights(
    checkpoint: Checkpoint,
    expected: Shapes,
    *,
    not_needed: Mapping[str, str],
    rename: Callable[[str], str] = str,
    rename_in_adapters: Callable[[str], str] = str,
    dtype: torch.dtype,
    device: str | torch.device,
) -> dict[str, torch.Tensor]:
    """Every expected tensor, with the checkpoint's adapters merged in float32, in `dtype` on `device`.

    Reads both formats (.safetensors, .bin), whole or in shards, and only these tensors. `rename` turns the name of a
    stored tensor into its name in `expected`, `rename_in_adapters` does so for an adapter's, whose layout may be
    another one. `not_needed` has the prefixes of the tensors that stay on disk (and what each is, for readers). Every
    tensor is a copy in memory of its own: its alignment, which may decide a library's choice of kernel, does not depend
    on its position in the file.

    Raises CheckpointError where a file is damaged, an expected tensor is missing or has another shape, or a tensor is
    neither expected, nor in `not_needed`, nor a table that follows from config.json.
    """
    found: dict[str, tuple[TensorFile, str]] = {}  # expected name -> (file, name in that file)
    for file in (open_tensor_file(checkpoint.path / name) for name in checkpoint.weight_files):
        for stored_name in file.shapes:
            if stored_name.endswith(_BUFFERS):
                continue
            name = rename(_WRAPPERS.sub("", stored_name))
            if name in found:
                raise CheckpointError(
                    f"{stored_name} is twice in {checkpoint.path}: in {found[name][0].path} and {file.path}"
                )
            found[name] = file, stored_name
    shapes = {name: file.shapes[stored_name] for name, (file, stored_name) in found.items()}
    _check_all_is_accounted_for(checkpoint, expected, shapes, not_needed)
    merger = Merger(checkpoint, expected, not_needed=not_needed, rename=rename_in_adapters)
    tensors = ((name, *found[name]) for name in expected)
    return {
        name: merger.merged(name, file.read(stored_name)).to(device, dtype, copy=True)
        for name, file, stored_name in tensors
    }


def stored_dtypes(checkpoint: Checkpoint) -> dict[str, str]:
    """The dtype of every tensor in the weight files of a fetched checkpoint, by its stored name. Reads no values."""
    files = (open_tensor_file(checkpoint.path / name) for name in checkpoint.weight_files)
    return {name: dtype for file in files for name, dtype in file.dtypes.items()}


def tensor_names(checkpoint: Checkpoint, rename: Callable[[str], str] = str) -> set[str]:
    """The names of all tensors in a fetched checkpoint's files. Raises CheckpointError for a damaged file."""
    files = (open_tensor_file(checkpoint.path / name) for name in checkpoint.weight_files)
    return {rename(stored_name) for file in files for stored_name in file.shapes}


def shapes_of(module: nn.Module) -> Shapes:
    """The names and shapes of a module's tensors; the module may be on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _check_all_is_accounted_for(
    checkpoint: Checkpoint, expected: Shapes, found: Shapes, not_needed: Mapping[str, str]
) -> None:
    folder = checkpoint.path
    missing = expected.keys() - found.keys()
    if missing:
        raise CheckpointError(f"{folder} lacks {_count(missing)} that its config.json asks for: {_some(missing)}")
    unexpected = [name for name in found if name not in expected and not name.startswith(tuple(not_needed))]
    if unexpected:
        raise CheckpointError(
            f"{folder} holds {_count(unexpected)} that no {checkpoint.family} model has: {_some(unexpected)}; "
            "quantized weights cannot be read, and an adapter belongs into model.adapter"
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
    ordered = sorted(map(one_line, names))
    more = f" and {len(ordered) - _MAX_NAMES_SHOWN} more" if len(ordered) > _MAX_NAMES_SHOWN else ""
    return ", ".join(ordered[:_MAX_NAMES_SHOWN]) + more
