"""Adds LoRA adapters to the weights of a checkpoint while they are read, in float32.

Shapes: O output and I input channels of a matrix, R the rank of an adapter, V tokens of a vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from actors.checkpoint.adapter import LoraSettings, read_settings
from actors.checkpoint.kinds import ADAPTER_CONFIG
from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import TensorFile, open_tensor_file
from actors.errors import CheckpointError, one_line

# PEFT's names of the two factors, after the name of the module: those of a matrix, and those of an embedding.
_FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B"}
_PEFT_PREFIX = re.compile(r"^base_model\.model\.")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Change:
    """What one adapter does to one tensor: replaces it by `tensor`, if there is one, and adds `scale * B @ A`."""

    file: TensorFile
    names: Mapping[str, str]  # A and B, or `tensor`, to the name in the file
    scale: float
    is_embedding: bool

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed tensor, float32."""
        if "tensor" in self.names:
            weight = self.file.read(self.names["tensor"])
        if "A" not in self.names:
            return weight.float()
        a, b = (self.file.read(self.names[factor]).float() for factor in "AB")  # [R, I] and [O, R]
        delta = (b @ a) * self.scale
        return weight.float() + (delta.T if self.is_embedding else delta)


class Merger:
    """The adapters of a checkpoint, opened and matched to its tensors.

    `shapes` are the tensors that will be read; `not_needed` has the prefixes of those that stay on disk, whose changes
    have no effect on an image. `rename` turns a tensor's name in the layout that an adapter was trained in into its
    name in `shapes`. Raises CheckpointError if a tensor of an adapter belongs to none of them.
    """

    def __init__(
        self, checkpoint: Checkpoint, shapes: Shapes, *, not_needed: Collection[str], rename: Callable[[str], str]
    ) -> None:
        self._changes: dict[str, list[_Change]] = {}
        for adapter, weight in checkpoint.adapters:
            (file_name,) = (name for name in adapter.weight_files if name != ADAPTER_CONFIG)
            file = open_tensor_file(adapter.path / file_name)
            settings = read_settings(adapter.config, adapter.name)
            for module, names in _by_module(file.shapes).items():
                target = _target(module, shapes, tuple(not_needed), rename)
                if target is None:
                    raise CheckpointError(
                        f"{adapter.name} changes {one_line(module)}, which {checkpoint.name} does not have; it was "
                        "trained on another model"
                    )
                change = _change(adapter, file, module, names, settings, weight)
                if target in shapes:
                    _check_shape(adapter, change, module, shapes[target])
                    self._changes.setdefault(target, []).append(change)

    def changes(self, name: str) -> bool:
        """Whether an adapter changes this tensor."""
        return name in self._changes

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A tensor of the checkpoint with the changes of all adapters, in their order; itself if there are none."""
        for change in self._changes.get(name, ()):
            weight = change.apply(weight)
        return weight


def _by_module(shapes: Shapes) -> dict[str, dict[str, str]]:
    """The tensors of an adapter file by the name of their module: `A` and `B`, or `tensor` for one saved whole."""
    modules: dict[str, dict[str, str]] = {}
    for stored in shapes:
        name = _PEFT_PREFIX.sub("", stored).replace(".modules_to_save.", ".").replace(".base_layer.", ".")
        ending = next((ending for ending in _FACTORS if name.endswith(ending)), None)
        module = name.removesuffix(ending or ".weight")
        modules.setdefault(module, {})[_FACTORS[ending] if ending else "tensor"] = stored
    return modules


def _target(module: str, shapes: Shapes, not_needed: tuple[str, ...], rename: Callable[[str], str]) -> str | None:
    """The tensor of the checkpoint that belongs to a module of the adapter, None if there is none.

    An adapter may have been trained on the language model alone, whose names lack its prefix.
    """
    for name in (module, f"{module}.weight", f"language_model.{module}", f"language_model.{module}.weight"):
        renamed = rename(name)
        if renamed in shapes or renamed.startswith(not_needed):
            return renamed
    return None


def _change(
    adapter: Checkpoint, file: TensorFile, module: str, names: Mapping[str, str], settings: LoraSettings, weight: float
) -> _Change:
    if names.keys() >= {"A", "B"}:  # next to an embedding's factors PEFT may save the embedding itself
        rank = settings.rank_of(module)
        a, b = file.shapes[names["A"]], file.shapes[names["B"]]
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise CheckpointError(
                f"{one_line(module)} of {adapter.name} must have factors of rank {rank}, as adapter_config.json says; "
                f"got {list(a)} and {list(b)}"
            )
        is_embedding = "lora_embedding" in names["A"]
        return _Change(file=file, names=names, scale=settings.scale_of(module) * weight, is_embedding=is_embedding)
    if names.keys() == {"tensor"}:
        if weight != 1.0:
            raise CheckpointError(
                f"{adapter.name} replaces {one_line(module)} as a whole, so its weight must be 1, got {weight:g}"
            )
        return _Change(file=file, names=names, scale=1.0, is_embedding=False)
    raise CheckpointError(
        f"{one_line(module)} of {adapter.name} must have both factors, lora_A and lora_B, got "
        f"{', '.join(map(one_line, sorted(names.values())))}"
    )


def _check_shape(adapter: Checkpoint, change: _Change, module: str, expected: tuple[int, ...]) -> None:
    shapes = change.file.shapes
    if "tensor" in change.names:
        found = shapes[change.names["tensor"]]
    else:
        found = (shapes[change.names["B"]][0], shapes[change.names["A"]][1])
        found = found[::-1] if change.is_embedding else found
    if found != expected:
        raise CheckpointError(
            f"{one_line(module)} of {adapter.name} has shape {list(found)}, the checkpoint's has {list(expected)}"
        )
