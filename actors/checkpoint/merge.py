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
from actors.checkpoint.tensors import TensorFile, open_tensor_file, without_wrappers
from actors.errors import CheckpointError, one_line

# PEFT's names, after the name of the module: the two factors of a matrix or of an embedding, and the lengths of a
# matrix's rows (DoRA). A state dict that PEFT did not save itself also has the name of the adapter, `default`.
_PART = re.compile(r"\.lora_(?:embedding_)?(A|B|magnitude_vector)(?:\.default)?(?:\.weight)?$")
_PEFT_PREFIX = re.compile(r"^base_model\.model\.")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Change:
    """What one adapter does to one tensor: replaces it by `tensor`, if there is one, adds `scale * B @ A`, and gives
    its rows the lengths `magnitude_vector`. The rows of an embedding are its channels.
    """

    file: TensorFile
    names: Mapping[str, str]  # A and B, `magnitude_vector`, `tensor`: to the name in the file
    scale: float
    is_embedding: bool

    @property
    def is_a_sum(self) -> bool:
        """Whether it adds to the tensor and does nothing else, so that the order of adapters does not matter."""
        return self.names.keys() == {"A", "B"}

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed tensor, float32."""
        weight_OI = self._read("tensor") if "tensor" in self.names else weight.float()
        if "A" not in self.names:
            return weight_OI
        if self.is_embedding:
            weight_OI = weight_OI.T
        weight_OI = weight_OI + (self._read("B") @ self._read("A")) * self.scale
        if "magnitude_vector" in self.names:
            weight_OI = (self._read("magnitude_vector") / torch.linalg.norm(weight_OI, dim=1))[:, None] * weight_OI
        return weight_OI.T.contiguous() if self.is_embedding else weight_OI

    def _read(self, part: str) -> torch.Tensor:
        return self.file.read(self.names[part]).float()


class Merger:
    """The adapters of a checkpoint, opened and matched to its tensors.

    `shapes` are the tensors that will be read; `not_needed` has the prefixes of those that stay on disk, whose changes
    have no effect on an image. `rename` turns a tensor's name in the layout that an adapter was trained in into its
    name in `shapes`. Raises CheckpointError if a tensor of an adapter belongs to none of them.
    """

    def __init__(
        self, checkpoint: Checkpoint, shapes: Shapes, *, not_needed: Collection[str], rename: Callable[[str], str]
    ) -> None:
        self._checkpoint, self._shapes, self._rename = checkpoint, shapes, rename
        self._not_needed = tuple(not_needed)
        self._changes: dict[str, list[_Change]] = {}
        for adapter, weight in checkpoint.adapters:
            for file_name in adapter.weight_files:
                if file_name != ADAPTER_CONFIG:
                    self._add(adapter, weight, open_tensor_file(adapter.path / file_name))
        for name, changes in self._changes.items():
            if len(changes) > 1 and not all(change.is_a_sum for change in changes):
                raise CheckpointError(
                    f"{len(changes)} adapters change {name}, and one of them replaces it or is a DoRA; only the "
                    "factors of LoRA add up"
                )

    def _add(self, adapter: Checkpoint, weight: float, file: TensorFile) -> None:
        """Match the tensors of an adapter's file to those of the checkpoint."""
        settings = read_settings(adapter.config, adapter.name)
        for module, names in tensors_by_module(file.shapes).items():
            target = _target(module, self._shapes, self._not_needed, self._rename)
            if target is None:
                raise CheckpointError(
                    f"{adapter.name} changes {one_line(module)}, which {self._checkpoint.name} does not have; it was "
                    "trained on another model"
                )
            change = _change(adapter, file, module, names, settings, weight)
            if target in self._shapes:
                _check_shape(adapter, change, module, self._shapes[target])
                self._changes.setdefault(target, []).append(change)

    def changes(self, name: str) -> bool:
        """Whether an adapter changes this tensor."""
        return name in self._changes

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A tensor of the checkpoint with the changes of all adapters, in their order; itself if there are none."""
        for change in self._changes.get(name, ()):
            weight = change.apply(weight)
        return weight


def tensors_by_module(shapes: Shapes) -> dict[str, dict[str, str]]:
    """The tensors of an adapter file by the name of their module, and by what they are, as in `_Change`."""
    modules: dict[str, dict[str, str]] = {}
    for stored in shapes:
        name = without_wrappers(_PEFT_PREFIX.sub("", without_wrappers(stored)))
        name = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
        part = _PART.search(name)
        module = name[: part.start()] if part else name.removesuffix(".weight")
        modules.setdefault(module, {})[part[1] if part else "tensor"] = stored
    return modules


def _target(module: str, shapes: Shapes, not_needed: tuple[str, ...], rename: Callable[[str], str]) -> str | None:
    """The tensor of the checkpoint that belongs to a module of the adapter, None if there is none.

    An adapter may have been trained on the language model alone, whose names lack its prefix.
    """
    names = (module, f"{module}.weight", f"language_model.{module}", f"language_model.{module}.weight")
    renamed = [rename(name) for name in names]
    return next(
        (name for name in renamed if name in shapes),
        next((name for name in renamed if name.startswith(not_needed)), None),
    )


def _change(
    adapter: Checkpoint, file: TensorFile, module: str, names: Mapping[str, str], settings: LoraSettings, weight: float
) -> _Change:
    if names.keys() >= {"A", "B"}:  # next to an embedding's factors PEFT may save the embedding itself
        rank = settings.rank_of(module)
        a, b = file.shapes[names["A"]], file.shapes[names["B"]]
        if len(a) != 2 or len(b) != 2:
            raise CheckpointError(
                f"{adapter.name} changes {one_line(module)}, a convolution; only matrices can be merged"
            )
        if a[0] != rank or b[1] != rank:
            raise CheckpointError(
                f"{one_line(module)} of {adapter.name} must have factors of rank {rank}, as adapter_config.json says; "
                f"got {list(a)} and {list(b)}"
            )
        is_embedding = "lora_embedding" in names["A"]
        if adapter.config.get("use_dora") and "magnitude_vector" not in names:
            raise CheckpointError(f"{adapter.name} is a DoRA, and its file lacks the magnitudes of {one_line(module)}")
        if "magnitude_vector" in names and weight != 1.0:
            raise CheckpointError(f"{adapter.name} is a DoRA, so its weight must be 1, got {weight:g}")
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
    shapes = {part: change.file.shapes[name] for part, name in change.names.items()}
    found = [shapes["tensor"]] if "tensor" in shapes else []
    if "A" in shapes:
        num_rows, num_columns = shapes["B"][0], shapes["A"][1]
        found.append((num_columns, num_rows) if change.is_embedding else (num_rows, num_columns))
        if shapes.get("magnitude_vector", (num_rows,)) != (num_rows,):
            raise CheckpointError(f"the magnitudes of {one_line(module)} of {adapter.name} must be {num_rows} numbers")
    for shape in found:
        if shape != expected:
            raise CheckpointError(
                f"{one_line(module)} of {adapter.name} has shape {list(shape)}, the checkpoint's has {list(expected)}"
            )
