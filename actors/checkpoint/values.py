"""Looks for numbers that no training leaves in a checkpoint's weights: NaN, infinity, one number as a whole matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from actors.checkpoint.adapter import read_settings
from actors.checkpoint.doctor import Finding, Use
from actors.checkpoint.files import some
from actors.checkpoint.kinds import ADAPTER_CONFIG
from actors.checkpoint.merge import tensors_by_module
from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import READ_DTYPES, open_tensor_file, without_wrappers
from actors.checkpoint.weights import BUFFERS
from actors.errors import one_line

# Modules, by any layout's name: of what looks at images, of what no job runs, and of residual branches, which training
# may leave at zero.
_LOOKING = {"vision_model", "vision_und_enc_model", "aligner", "vision_und_enc_aligner", "beg_of_und_embed", "lm_head"}
_NOT_USED = {"encoder", "quant_conv", "codebook_used"}  # from images to codes or latents
_POOLING = {"attn_pool", "head"}
_RESIDUAL = {"res", "resnets", "res_blocks", "attn", "attentions", "mid", "mid_block"}
FLOAT32_MAX = torch.finfo(torch.float32).max


def check_values(checkpoint: Checkpoint, uses: Collection[Use] = ("rendering", "looking")) -> Iterator[Finding]:
    """Whether the tensors for each use are finite and not constant, and those of the adapters finite and not without
    effect. For a fetched checkpoint or VAE.

    An engine would not fail with them: each image becomes NaN and is rejected, or an empty picture is committed.
    """
    faults: dict[Use, list[str]] = {}
    for file in (open_tensor_file(checkpoint.path / name) for name in checkpoint.weight_files):
        for name, dtype in file.dtypes.items():
            use = _use_of(without_wrappers(name))
            if use and use in uses and dtype in READ_DTYPES:
                fault = _fault_of(name, file.read(name))
                faults.setdefault(use, []).extend([fault] if fault else [])
    for use, found in faults.items():
        detail = some(found, most=2) if found else "all finite, and no weight is one number throughout"
        yield Finding(check=f"numbers for {use}", is_ok=not found, detail=detail)
    for adapter, _ in checkpoint.adapters:
        yield _check_adapter(adapter, uses)


def _check_adapter(adapter: Checkpoint, uses: Collection[Use]) -> Finding:
    """Whether the tensors of an adapter for these uses are finite, and whether it changes anything."""
    faults, has_effect = [], False
    settings = read_settings(adapter.config, adapter.name)
    for file in (open_tensor_file(adapter.path / name) for name in adapter.weight_files if name != ADAPTER_CONFIG):
        for module, names in tensors_by_module(file.shapes).items():
            largest = {
                part: _largest(file.read(name))
                for part, name in names.items()
                if _use_of(without_wrappers(name)) in uses and file.dtypes[name] in READ_DTYPES
            }
            odd = [names[part] for part, number in largest.items() if not number < torch.inf]
            faults += [f"{one_line(name)} has NaN or infinite numbers" for name in odd]
            if largest.keys() != {"A", "B"}:
                has_effect = True  # it replaces the tensor or its lengths, or is for another use
            elif not odd:
                product = largest["A"] * largest["B"] * abs(settings.scale_of(module))
                has_effect |= product > 0
                faults += [f"{one_line(names['B'])} @ lora_A is beyond float32"] if product > FLOAT32_MAX else []
    if not faults and not has_effect:
        faults.append("each of its products lora_B @ lora_A is 0: it changes nothing, as before training")
    detail = some(faults, most=2) if faults else "all finite, and not 0 throughout"
    return Finding(check="numbers of the adapter", is_ok=not faults, detail=f"{adapter.name}: {detail}")


def _use_of(name: str) -> Use | None:
    modules = set(name.split("."))
    if modules & BUFFERS:
        return None
    if modules & _LOOKING:
        return None if modules & _POOLING else "looking"
    return None if modules & _NOT_USED else "rendering"


def _fault_of(name: str, tensor: torch.Tensor) -> str:
    if not tensor.numel():
        return ""
    low, high = (float(bound) for bound in tensor.aminmax())
    if not (low > -torch.inf and high < torch.inf):
        return f"{name} has NaN or infinite numbers"
    is_matrix = sum(size > 1 for size in tensor.shape) > 1
    if low != high or (low == 0 and _RESIDUAL & set(name.split("."))):
        return ""
    is_dead = is_matrix or (low == 0 and tensor.dim() == 1 and name.endswith(".weight"))  # other biases may be zero
    return f"{name} is {low:g} throughout" if is_dead else ""


def _largest(tensor: torch.Tensor) -> float:
    """The largest absolute number, NaN if one is; 0 of no numbers."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0
