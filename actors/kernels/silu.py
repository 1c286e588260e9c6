"""The gate of a feed-forward layer, `silu(gate) * up`, as one kernel. Shapes: R rows, I channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from actors.kernels.jit import Kernel, ceil_div

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 1024


def silu_mul(gate_up_RX: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` [R, I] of the two halves of `gate_up_RX` [R, 2 * I], in float32, rounded once.

    Each number depends on two others and on no neighbour.
    """
    num_rows, num_channels = len(gate_up_RX), gate_up_RX.shape[1] // 2
    out_RI = torch.empty(num_rows, num_channels, dtype=gate_up_RX.dtype, device=gate_up_RX.device)
    _silu_mul[num_rows, ceil_div(num_channels, _BLOCK)](
        gate_up_RX, out_RI, CHANNELS=num_channels, BLOCK=_BLOCK, num_warps=4
    )
    return out_RI


def silu_mul_reference(gate_up_RX: torch.Tensor) -> torch.Tensor:
    """`silu_mul` in torch."""
    gate_RI, up_RI = gate_up_RX.float().chunk(2, dim=1)
    return (F.silu(gate_RI) * up_RI).to(gate_up_RX.dtype)


@Kernel
def _silu_mul(gate_up_ptr, out_ptr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_channel = i < CHANNELS
    gate = tl.load(gate_up_ptr + row * (2 * CHANNELS) + i, mask=is_channel, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * (2 * CHANNELS) + CHANNELS + i, mask=is_channel, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * CHANNELS + i, out.to(out_ptr.dtype.element_ty), mask=is_channel)
