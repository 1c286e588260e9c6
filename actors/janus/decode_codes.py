"""Decodes the codes of Janus images to pixels, with torch and safetensors alone.

An export in layout codes has a copy of this file next to its `decoder.safetensors`. The arithmetic is that of
`actors.janus.decoder` in float32, so a pixel differs from the rendered one by a rounding at most.

Shapes: B images, N codes of an image in raster order, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from safetensors import safe_open
from torch.nn import functional as F

Weights = dict[str, torch.Tensor]


def load_decoder(path: str, device: str = "cpu") -> Callable[[torch.Tensor], torch.Tensor]:
    """The decoder in a file: codes [B, N] to pixels, uint8 [B, H, W, 3]."""
    with safe_open(path, "pt", device=device) as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 it is no dict
    return partial(decode, weights)


@torch.inference_mode()
def decode(weights: Weights, codes_BN: torch.Tensor) -> torch.Tensor:
    """Codes [B, N] to pixels, uint8 [B, H, W, 3]. About 0.5 GB of memory per image of 384 x 384 pixels."""
    table = weights["quantize.embedding.weight"]
    side = math.isqrt(codes_BN.shape[1])
    x = F.embedding(codes_BN.long().to(table.device), table).unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous()
    x = _conv(weights, "decoder.conv_in", _conv(weights, "post_quant_conv", x))
    x = _residual(weights, "decoder.mid.0", x)
    x = _attention(weights, "decoder.mid.1", x)
    x = _residual(weights, "decoder.mid.2", x)
    level = 0
    while f"decoder.conv_blocks.{level}.res.0.norm1.weight" in weights:
        x = _level(weights, f"decoder.conv_blocks.{level}", x)
        level += 1
    x = _conv(weights, "decoder.conv_out", F.silu(_norm(weights, "decoder.norm_out", x)))
    return ((x + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _level(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """The blocks of one resolution, and the upsampling to the next."""
    block = 0
    while f"{name}.res.{block}.norm1.weight" in weights:
        x = _residual(weights, f"{name}.res.{block}", x)
        if f"{name}.attn.{block}.norm.weight" in weights:
            x = _attention(weights, f"{name}.attn.{block}", x)
        block += 1
    if f"{name}.upsample.conv.weight" not in weights:
        return x
    return _conv(weights, f"{name}.upsample.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _residual(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    h = _conv(weights, f"{name}.conv1", F.silu(_norm(weights, f"{name}.norm1", x)))
    h = _conv(weights, f"{name}.conv2", F.silu(_norm(weights, f"{name}.norm2", h)))
    return h + (_conv(weights, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in weights else x)


def _attention(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    h = _norm(weights, f"{name}.norm", x)
    q, k, v = (_conv(weights, f"{name}.{part}", h).flatten(2).transpose(1, 2).unsqueeze(1) for part in "qkv")
    attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
    return x + _conv(weights, f"{name}.proj_out", attended.unflatten(2, x.shape[2:]))


def _conv(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)


def _norm(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)
