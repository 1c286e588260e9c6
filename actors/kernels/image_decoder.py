"""The image decoder of both families on a GPU: one image per call, channels last, group norms fused with their sums.

Libraries choose other kernels for other numbers of images, and some give an image other bits in another place of the
call. One image per call has the same bits every time, and as a CUDA graph it costs no more.

Maps are [1, C, H, W] with the channels last in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from actors.kernels.cuda_graph import GraphPool
from actors.kernels.group_norm import add_group_norm
from actors.layers import to_uint8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualBlock:
    norm1: nn.GroupNorm
    conv1: nn.Conv2d
    norm2: nn.GroupNorm
    conv2: nn.Conv2d
    shortcut: nn.Conv2d | None  # where the number of channels changes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttentionBlock:
    """One head over all positions. The layers may be 1 x 1 convolutions or linear layers."""

    norm: nn.GroupNorm
    q: nn.Module
    k: nn.Module
    v: nn.Module
    out: nn.Module


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Upsampling:
    """Twice the size each way, then a convolution."""

    conv: nn.Conv2d


Block = ResidualBlock | AttentionBlock | Upsampling


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderLayers:
    """A decoder's layers in their order."""

    post_quant_conv: nn.Module
    conv_in: nn.Conv2d
    blocks: list[Block]
    norm_out: nn.GroupNorm
    conv_out: nn.Conv2d


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """A map that is not added up yet: the next group norm does it in one pass."""

    x: torch.Tensor
    bias_C: torch.Tensor | None = None
    residual: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pixels:
    """Pixels, uint8 [B, height, width, 3], and whether the decoder's output was finite [B], both on the device."""

    pixels: torch.Tensor
    is_finite_B: torch.Tensor


def no_pixels(device: torch.device) -> Pixels:
    """The pixels of no image."""
    empty = torch.empty(0, 0, 0, 3, dtype=torch.uint8, device=device)
    return Pixels(pixels=empty, is_finite_B=empty.new_empty(0, dtype=torch.bool))


class ImageDecoder:
    """Codes or latents to images, one at a time.

    `example` is a batch of one; `to_map` turns such a batch into the decoder's input [1, E, H, W].
    """

    def __init__(
        self,
        layers: DecoderLayers,
        to_map: Callable[[torch.Tensor], torch.Tensor],
        example: torch.Tensor,
        graphs: GraphPool | None = None,
    ) -> None:
        self.layers, self.to_map, self.graphs = layers, to_map, graphs
        self.input = example.clone()
        self.pixels, self.is_finite = torch.empty(0), torch.empty(0)

    def __call__(self, inputs_B: torch.Tensor) -> Pixels:
        """Decode [B, ...]; an image's bits do not depend on the others."""
        pixels, is_finite = [], []
        for index in range(len(inputs_B)):
            self.input.copy_(inputs_B[index : index + 1])
            if self.graphs:
                self.graphs.run("decode", self._decode)
            else:
                self._decode()
            pixels.append(self.pixels.clone())
            is_finite.append(self.is_finite.clone())
        if not pixels:
            return no_pixels(self.input.device)
        return Pixels(pixels=torch.cat(pixels), is_finite_B=torch.cat(is_finite))

    def _decode(self) -> None:
        decoded = decode(self.layers, self.to_map(self.input))
        self.pixels = to_uint8(decoded).contiguous()
        self.is_finite = decoded.isfinite().flatten(1).all(dim=1)


def decode(layers: DecoderLayers, z: torch.Tensor) -> torch.Tensor:
    """The decoder's input [1, E, H, W] to its output [1, 3, height, width]."""
    z = z.contiguous(memory_format=torch.channels_last)
    x = _Sum(_convolve(layers.conv_in, layers.post_quant_conv(z)), layers.conv_in.bias)
    for block in layers.blocks:
        x = _BLOCKS[type(block)](block, x)
    return layers.conv_out(_norm(layers.norm_out, x)[1])


def _residual_block(block: ResidualBlock, x: _Sum) -> _Sum:
    whole, h = _norm(block.norm1, x)
    _, h = _norm(block.norm2, _Sum(_convolve(block.conv1, h), block.conv1.bias))
    bias_C, residual = block.conv2.bias, whole
    if block.shortcut is not None:
        bias_C, residual = bias_C + block.shortcut.bias, _convolve(block.shortcut, whole)
    return _Sum(_convolve(block.conv2, h), bias_C, residual)


def _attention_block(block: AttentionBlock, x: _Sum) -> _Sum:
    whole, h = _norm(block.norm, x, has_silu=False)
    tokens = h.permute(0, 2, 3, 1).flatten(1, 2)[:, None]  # [1, 1, H * W, C]
    q, k, v = (F.linear(tokens, layer.weight.flatten(1), layer.bias) for layer in (block.q, block.k, block.v))
    attended = F.linear(F.scaled_dot_product_attention(q, k, v)[:, 0], block.out.weight.flatten(1))
    return _Sum(attended.unflatten(1, whole.shape[2:]).permute(0, 3, 1, 2), block.out.bias, whole)


def _upsample(block: Upsampling, x: _Sum) -> _Sum:
    whole = x.x
    if x.bias_C is not None:
        whole = whole + x.bias_C[:, None, None]
    if x.residual is not None:
        whole = whole + x.residual
    doubled = F.interpolate(whole, scale_factor=2.0, mode="nearest")
    return _Sum(_convolve(block.conv, doubled), block.conv.bias)


_BLOCKS: dict[type, Callable[..., _Sum]] = {
    ResidualBlock: _residual_block,
    AttentionBlock: _attention_block,
    Upsampling: _upsample,
}


def _norm(norm: nn.GroupNorm, x: _Sum, *, has_silu: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The added-up map and its group norm."""
    return add_group_norm(x.x, x.bias_C, x.residual, norm.weight, norm.bias, norm.num_groups, norm.eps, has_silu)


def _convolve(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution without its bias, which the next group norm adds."""
    return F.conv2d(x, conv.weight, padding=conv.padding)
