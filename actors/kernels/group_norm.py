"""Group norm and SiLU of an image decoder, with the sum in front of them: what a convolution left to add.

Shapes: B images, C channels in G groups, H x W positions. Maps are [B, C, H, W] with the channels last in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from actors.kernels.jit import Kernel, ceil_div, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

_MAX_PARTS = 256  # of an image, each summed by one program: about twice the multiprocessors of the largest GPUs
_TILE = 8192  # numbers that a program holds at a time


def add_group_norm(
    x: torch.Tensor,
    bias_C: torch.Tensor | None,
    residual: torch.Tensor | None,
    weight_C: torch.Tensor,
    shift_C: torch.Tensor,
    num_groups: int,
    eps: float,
    has_silu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + bias + residual`, rounded to their dtype, and `silu(group_norm(s) * weight + shift)`, both [B, C, H, W].

    `bias_C` and `residual` may be None; with neither, `s` is `x` itself. SiLU only with `has_silu`.

    An image's bits depend on the image alone: its positions are cut into parts by its size, each part has a mean and a
    sum of squares around it from one program, and they are combined in order (Chan et al., 1983). Nothing cancels.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    num_images, num_channels, height, width = x.shape
    num_positions, group_size = height * width, num_channels // num_groups
    tile = max(1, _TILE // (num_groups * power_of_two(group_size)))  # positions
    tiles_of_part = ceil_div(ceil_div(num_positions, tile), _MAX_PARTS)
    num_parts = ceil_div(num_positions, tile * tiles_of_part)
    sizes = {"C": num_channels, "G": num_groups, "GROUP": group_size, "GROUP_BLOCK": power_of_two(group_size)}
    has_sum = bias_C is not None or residual is not None

    total = torch.empty_like(x) if has_sum else x
    out = torch.empty_like(x)
    parts = torch.empty(num_images, num_parts, 3, num_groups, dtype=torch.float32, device=x.device)
    moments = torch.empty(num_images, 2, num_groups, dtype=torch.float32, device=x.device)
    _sum_parts[num_parts, num_images](
        x,
        x if bias_C is None else bias_C,
        x if residual is None else residual,
        total,
        parts,
        num_positions,
        TILE=tile,
        TILES_OF_PART=tiles_of_part,
        HAS_BIAS=bias_C is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=8,
        **sizes,
    )
    _combine_parts[num_images,](
        parts, moments, num_parts, eps, G=num_groups, BLOCK=power_of_two(num_parts), num_warps=8
    )
    _normalize[ceil_div(num_positions, tile), num_images](
        total, moments, weight_C, shift_C, out, num_positions, TILE=tile, HAS_SILU=has_silu, num_warps=8, **sizes
    )
    return total, out


def add_group_norm_reference(
    x: torch.Tensor,
    bias_C: torch.Tensor | None,
    residual: torch.Tensor | None,
    weight_C: torch.Tensor,
    shift_C: torch.Tensor,
    num_groups: int,
    eps: float,
    has_silu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_group_norm` in torch."""
    total = x.float()
    if bias_C is not None:
        total = total + bias_C.float()[:, None, None]
    if residual is not None:
        total = total + residual.float()
    total = total.to(x.dtype)
    out = F.group_norm(total.float(), num_groups, weight_C.float(), shift_C.float(), eps)
    return total, (F.silu(out) if has_silu else out).to(x.dtype)


@Kernel
def _sum_parts(
    x_ptr,
    bias_ptr,
    residual_ptr,
    total_ptr,
    part_ptr,
    num_positions,
    C: tl.constexpr,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    TILES_OF_PART: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """Count, mean and sum of squares around the mean of each group in one part of an image: [B, parts, 3, G]."""
    part = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    g = tl.arange(0, G)
    j = tl.arange(0, GROUP_BLOCK)[None, None, :]
    c = g[None, :, None] * GROUP + j
    if HAS_BIAS:
        bias = tl.load(bias_ptr + c, mask=j < GROUP, other=0.0).to(tl.float32)
    count = tl.zeros((G,), tl.float32)
    mean = tl.zeros((G,), tl.float32)
    squares = tl.zeros((G,), tl.float32)
    for index in range(TILES_OF_PART):
        p = (part * TILES_OF_PART + index) * TILE + tl.arange(0, TILE)[:, None, None]
        is_there = (p < num_positions) & (j < GROUP) & (c < C)
        at = (image * num_positions + p) * C + c
        x = tl.load(x_ptr + at, mask=is_there, other=0.0).to(tl.float32)
        if HAS_BIAS:
            x += bias
        if HAS_RESIDUAL:
            x += tl.load(residual_ptr + at, mask=is_there, other=0.0).to(tl.float32)
        if HAS_BIAS or HAS_RESIDUAL:
            rounded = x.to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + at, rounded, mask=is_there)
            x = rounded.to(tl.float32)
        x = tl.where(is_there, x, 0.0)
        tile_count = tl.sum(tl.sum(is_there.to(tl.float32), 2), 0)
        tile_mean = tl.sum(tl.sum(x, 2), 0) / tl.maximum(tile_count, 1.0)
        centered = tl.where(is_there, x - tile_mean[None, :, None], 0.0)
        tile_squares = tl.sum(tl.sum(centered * centered, 2), 0)
        new_count = tl.maximum(count + tile_count, 1.0)
        shift = tile_mean - mean
        squares += tile_squares + shift * shift * (count * tile_count / new_count)
        mean += shift * (tile_count / new_count)
        count += tile_count
    at = (image * tl.num_programs(0) + part) * (3 * G) + g
    tl.store(part_ptr + at, count)
    tl.store(part_ptr + at + G, mean)
    tl.store(part_ptr + at + 2 * G, squares)


@Kernel
def _combine_parts(part_ptr, moment_ptr, num_parts, eps, G: tl.constexpr, BLOCK: tl.constexpr):
    """From the parts of an image to each group's mean and 1 / standard deviation: [B, 2, G]."""
    image = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)[:, None]
    g = tl.arange(0, G)
    at = (image * num_parts + k) * (3 * G) + g[None, :]
    count = tl.load(part_ptr + at, mask=k < num_parts, other=0.0)
    mean = tl.load(part_ptr + at + G, mask=k < num_parts, other=0.0)
    squares = tl.load(part_ptr + at + 2 * G, mask=k < num_parts, other=0.0)
    whole_count = tl.sum(count, 0)
    whole_mean = tl.sum(count * mean, 0) / whole_count
    shift = tl.where(k < num_parts, mean - whole_mean[None, :], 0.0)
    whole_squares = tl.sum(squares + count * shift * shift, 0)
    tl.store(moment_ptr + image * (2 * G) + g, whole_mean)
    tl.store(moment_ptr + image * (2 * G) + G + g, 1.0 / tl.sqrt(whole_squares / whole_count + eps))


@Kernel
def _normalize(
    total_ptr,
    moment_ptr,
    weight_ptr,
    shift_ptr,
    out_ptr,
    num_positions,
    C: tl.constexpr,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    HAS_SILU: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    g = tl.arange(0, G)[None, :, None]
    j = tl.arange(0, GROUP_BLOCK)[None, None, :]
    c = g * GROUP + j
    mean = tl.load(moment_ptr + image * (2 * G) + g)
    weight = tl.load(weight_ptr + c, mask=j < GROUP, other=0.0).to(tl.float32)
    weight = weight * tl.load(moment_ptr + image * (2 * G) + G + g)
    shift = tl.load(shift_ptr + c, mask=j < GROUP, other=0.0).to(tl.float32)
    p = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None, None]
    is_there = (p < num_positions) & (j < GROUP)
    at = (image * num_positions + p) * C + c
    x = tl.load(total_ptr + at, mask=is_there, other=0.0).to(tl.float32)
    x = (x - mean) * weight + shift
    if HAS_SILU:
        x = x / (1.0 + tl.exp(-x))
    tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask=is_there)
