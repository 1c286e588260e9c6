"""Reads the tensors that generation needs from a fetched checkpoint, and accounts for all others in its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from actors.checkpoint.files import some
from actors.checkpoint.kinds import refuse_a_language_model_alone, refuse_parts_of_tensors
from actors.checkpoint.merge import Merger
from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import TensorFile, open_tensor_file, without_wrappers
from actors.errors import CheckpointError, one_line

_some = partial(some, most=3)  # the names of tensors are long

# Tables that older versions of transformers stored with the weights, and a count of training. None is a weight.
BUFFERS = {"inv_freq", "cos_cached", "sin_cached", "position_ids", "num_batches_tracked"}

_TEXT_LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Stored:
    """A tensor in a weight file, by its name there."""

    file: TensorFile
    name: str

    def __str__(self) -> str:
        return f"{one_line(self.name)} in {self.file.path.name}"


def load_weights(
    checkpoint: Checkpoint,
    expected: Shapes,
    *,
    not_needed: Mapping[str, str],
    tied: Mapping[str, str] | None = None,
    rename: Callable[[str], str] = str,
    rename_in_adapters: Callable[[str], str] = str,
    dtype: torch.dtype,
    device: str | torch.device,
) -> dict[str, torch.Tensor]:
    """Every expected tensor, with the checkpoint's adapters merged in float32, in `dtype` on `device`.

    Reads both formats (.safetensors, .bin), whole or in shards, and only these tensors. `rename` turns the name of a
    stored tensor into its name in `expected`, `rename_in_adapters` does so for an adapter's, whose layout may be
    another one. `not_needed` has the prefixes of the tensors that stay on disk (and what each is, for readers). `tied`
    has the tensors that may be missing, each with the one that it is then. Every stored tensor is a copy in memory of
    its own: its alignment, which may decide a library's choice of kernel, does not depend on its position in the file.

    Raises CheckpointError where a file is damaged, an expected tensor is missing or has another shape, or a tensor is
    neither expected, nor in `not_needed`, nor a table that follows from config.json.
    """
    found = _find(checkpoint, expected, rename)
    source_of = {name: name if name in found else (tied or {}).get(name, name) for name in expected}
    found |= {name: found[source] for name, source in source_of.items() if source in found}
    _check_all_is_accounted_for(checkpoint, expected, found, not_needed)
    sources = {source: expected[name] for name, source in source_of.items()}
    merger = Merger(checkpoint, expected | sources, not_needed=not_needed, rename=rename_in_adapters)
    for name, source in source_of.items():
        if name != source and merger.changes(name):
            raise CheckpointError(
                f"an adapter changes {name}, which {checkpoint.path} ties to {source}; store it as a tensor of its own"
            )
    loaded = {
        source: merger.merged(source, found[source].file.read(found[source].name)).to(device, dtype, copy=True)
        for source in sources
    }
    return {name: loaded[source] for name, source in source_of.items()}


def stored_dtypes(checkpoint: Checkpoint) -> dict[str, str]:
    """The dtype of every tensor in the weight files of a fetched checkpoint, by its stored name. Reads no values."""
    return {name: dtype for file in _open_files(checkpoint) for name, dtype in file.dtypes.items()}


def shapes_of(module: nn.Module) -> Shapes:
    """The names and shapes of a module's tensors; the module may be on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _open_files(checkpoint: Checkpoint) -> list[TensorFile]:
    return [open_tensor_file(checkpoint.path / name) for name in checkpoint.weight_files]


def _find(checkpoint: Checkpoint, expected: Shapes, rename: Callable[[str], str]) -> dict[str, _Stored]:
    """All tensors of the weight files by their names in `expected`, without the names of what is around the model."""
    stored = [_Stored(file=file, name=name) for file in _open_files(checkpoint) for name in file.shapes]
    stored = [one for one in stored if one.name.rpartition(".")[2] not in BUFFERS]
    names = [without_wrappers(one.name) for one in stored]
    outer = _outer_name(names, expected, rename)
    names = [rename(name.removeprefix(outer)) for name in names]
    found: dict[str, _Stored] = {}
    for name, one in zip(names, stored, strict=True):
        if name in found:
            raise CheckpointError(f"{one_line(name)} is twice in {checkpoint.path}: {found[name]} and {one}")
        found[name] = one
    return found


def _outer_name(names: Sequence[str], expected: Shapes, rename: Callable[[str], str]) -> str:
    """The name that a training program gave the whole model, such as Lightning's `model.`; empty without one."""
    if any(rename(name) in expected for name in names):
        return ""
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if rename(".".join(parts[start:])) in expected:
                return "".join(f"{part}." for part in parts[:start])
    return ""


def _check_all_is_accounted_for(
    checkpoint: Checkpoint, expected: Shapes, found: Mapping[str, _Stored], not_needed: Mapping[str, str]
) -> None:
    """Raise CheckpointError, with what the files hold in place of the expected tensors."""
    assert checkpoint.folder is not None
    folder = checkpoint.path
    refuse_parts_of_tensors(checkpoint.folder, found)
    missing = expected.keys() - found.keys()
    if missing:
        refuse_a_language_model_alone(checkpoint.folder, expected, found)
    _check_number_of_layers(checkpoint, expected, found)
    if missing and missing == expected.keys():
        raise CheckpointError(
            f"{folder} holds none of the {_count(missing)} that this job needs, such as {one_line(min(missing))}; "
            f"it holds {_some(found) if found else 'no tensors'}"
        )
    if missing:
        raise CheckpointError(f"{folder} lacks {_count(missing)} that this job needs: {_some(missing)}")
    unexpected = [name for name in found if name not in expected and not name.startswith(tuple(not_needed))]
    if unexpected:
        raise CheckpointError(
            f"{folder} holds {_count(unexpected)} that no {checkpoint.family} model has: {_some(unexpected)}"
        )
    for name, shape in expected.items():
        stored = found[name]
        if stored.file.shapes[stored.name] != shape:
            raise CheckpointError(
                f"{name} of {folder} has shape {list(stored.file.shapes[stored.name])}, its config.json means "
                f"{list(shape)}"
            )
        stored.file.check_dtype(stored.name)


def _check_number_of_layers(checkpoint: Checkpoint, expected: Iterable[str], found: Iterable[str]) -> None:
    asked, stored = (
        1 + max((int(layer[1]) for layer in map(_TEXT_LAYER.match, names) if layer), default=-1)
        for names in (expected, found)
    )
    if asked and stored not in (0, asked):
        raise CheckpointError(
            f"num_hidden_layers in config.json of {checkpoint.path} is {asked}, but the language model in its weights "
            f"has {stored} layers"
        )


def _count(names: Collection[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
