"""SiLU, `x * sigmoid(x)`, with the same bits wherever a number stands in its tensor."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def silu(x: torch.Tensor) -> torch.Tensor:
    """Elementwise, any shape.

    On a CPU torch's own takes the last few numbers of each thread's share, those that fill no vector register, through
    another exponential. In float32 this shows: a number's bits then depend on how many stand before it, that is on its
    neighbours in the batch and on the number of threads. `torch.exp` does not do that, and in bfloat16 the difference
    is rounded away (measured with torch 2.13).
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return x / (torch.exp(-x) + 1)
    return F.silu(x)


def silu_(x: torch.Tensor) -> torch.Tensor:
    """The same in place, for a contiguous tensor whose channels are a multiple of 32; a new one where gradients flow.

    On a CPU torch cuts the elements into equal shares, a thread each, of at least 32768; in float32 the end of a share
    is rounded differently, as above, unless it is a multiple of 32 elements long. In these three parts every share is
    one. Up to a third faster, over a whole picture decoder, than the formula, which takes any size.
    """
    if x.device.type != "cpu" or x.requires_grad:  # training keeps what it has to go back through
        return F.silu(x, inplace=not x.requires_grad)
    flat = x.view(-1)
    even = len(flat) // (share := 32768) // (threads := torch.get_num_threads()) * threads * share
    odd = len(flat) // share * share
    for part in (flat[:even], flat[even:odd], flat[odd:]):
        F.silu(part, inplace=True)
    return x


class SiLU(nn.Module):
    """`silu` as a module, to put in the place of a library's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu(x)


class InPlaceSiLU(nn.Module):
    """`silu_` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu_(x)
