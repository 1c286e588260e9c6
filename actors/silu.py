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


class SiLU(nn.Module):
    """`silu` as a module, to put in the place of a library's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return silu(x)
