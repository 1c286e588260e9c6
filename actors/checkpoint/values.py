"""Looks for numbers that no training leaves in a checkpoint's weights: NaN, infinity, one number as a whole matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from actors.checkpoint.doctor import Finding, Use
from actors.checkpoint.files import some
from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import READ_DTYPES, open_tensor_file, without_wrappers
from actors.checkpoint.weights import BUFFERS

# Modules, by any layout's name: of what looks at images, of what no job runs, and of residual branches, which training
# may leave at zero.
_LOOKING = {"vision_model", "vision_und_enc_model", "aligner", "vision_und_enc_aligner", "beg_of_und_embed", "lm_head"}
_NOT_USED = {"encoder", "quant_conv", "codebook_used"}  # from images to codes or latents
_POOLING = {"attn_pool", "head"}
_RESIDUAL = {"res", "resnets", "res_blocks", "attn", "attentions", "mid", "mid_block"}


def check_values(checkpoint: Checkpoint, uses: Collection[Use] = ("rendering", "looking")) -> Iterator[Finding]:
    """Whether the tensors for each use are finite and not constant. For a fetched checkpoint or VAE.

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
