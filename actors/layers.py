"""Layers shared by the networks. An output element has the same bits in any batch and with any number of threads."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

NUM_VECTORS = 64  # rows per matrix product of a VectorLinear


class Embedding(nn.Embedding):
    """nn.Embedding without random numbers on the meta device: for these, torch imports its compiler, which takes most
    of the time in which a small checkpoint is loaded.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU, `x * sigmoid(x)`, elementwise on any shape.

    On a CPU, torch computes the last few numbers of each thread's share (those that do not fill a vector register)
    with another exponential. In float32 this changes bits, so a number would depend on how many numbers precede it,
    that is on its neighbors in the batch and on the number of threads. `torch.exp` has no such tail, and in bfloat16
    rounding hides the difference (measured with torch 2.13).
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return x / (torch.exp(-x) + 1)
    return F.silu(x)


def silu_(x: torch.Tensor) -> torch.Tensor:
    """SiLU in place, for a contiguous tensor whose channels are a multiple of 32; a new tensor where gradients flow.

    On a CPU, torch gives each thread an equal share of at least 32768 elements; in float32 it rounds the end of a
    share differently (see `silu`) unless the share is a multiple of 32 elements long. The three parts below have only
    such shares. Over a whole image decoder this is up to a third faster than the formula in `silu`.
    """
    if x.device.type != "cpu" or x.requires_grad:  # training needs the input for the backward pass
        return F.silu(x, inplace=not x.requires_grad)
    flat = x.view(-1)
    even = len(flat) // (share := 32768) // (threads := torch.get_num_threads()) * threads * share
    odd = len(flat) // share * share
    for part in (flat[:even], flat[even:odd], flat[odd:]):
        F.silu(part, inplace=True)
    return x


class SiLU(nn.Module):
    """`silu` as a module that replaces a library's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu(x)


class InPlaceSiLU(nn.Module):
    """`silu_` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu_(x)


class VectorLinear(nn.Linear):
    """A linear layer over one vector per row, always run on NUM_VECTORS rows at once.

    With few rows, libraries choose their kernel by the number of rows, so the bits of a row would depend on its
    neighbors. Layers that see all positions of a map do not need this: they have many rows even for one image.
    """

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x_BI, (0, 0, 0, -len(x_BI) % NUM_VECTORS))
        return torch.cat([F.linear(part, self.weight, self.bias) for part in padded.split(NUM_VECTORS)])[: len(x_BI)]


class Conv1(nn.Conv2d):
    """A 1 x 1 convolution that always uses oneDNN on a CPU. torch uses another library with one thread: other bits."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
            y = torch.mkldnn_convolution(x, self.weight, self.bias, self.padding, self.stride, self.dilation, 1)
            return y.contiguous()  # oneDNN returns channels last, and adding tensors of two layouts is slow
        return super().forward(x)


class ContiguousGroupNorm(nn.Module):
    """A group norm that runs on contiguous [B, C, H, W]: with channels last, threads split the sums of a group."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x_BCHW.contiguous(), self.num_groups, self.weight, self.bias, self.eps)


def to_uint8(decoded_B3HW: torch.Tensor) -> torch.Tensor:
    """A decoder's output in [-1, 1] to uint8 [B, H, W, 3]. Clamps and truncates, as the reference does."""
    scaled = (decoded_B3HW.float() + 1) / 2 * 255
    return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
