"""A matrix product whose bits for a row do not depend on how many rows there are.

Libraries choose a kernel by the number of rows, and another kernel adds up in another order. Here every product of a
weight has one tile shape and walks its input channels from the first to the last.

Shapes: R rows, I input and O output channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from actors.kernels.jit import Kernel, ceil_div

if TYPE_CHECKING:
    import triton.language as tl

TILE_ROWS = 64  # one instruction of Hopper's matrix units
_TILE_OUTPUTS = 64  # small, so that 2048 output channels of 256 rows occupy 128 multiprocessors
_TILE_INPUTS = 64
_NUM_STAGES = {2: 5, 4: 3}  # bytes of a number -> tiles in flight: up to 96 KiB of shared memory, which Ampere has


def matmul(x_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias`, [R, O], for contiguous tensors of one dtype; summed in float32, rounded once.

    A row's bits depend on the row and the weight alone: a program computes TILE_ROWS rows, those missing from the last
    tile as zeros, and no sum is shared between programs.
    """
    num_rows, num_inputs, num_outputs = len(x_RI), x_RI.shape[1], len(weight_OI)
    out_RO = torch.empty(num_rows, num_outputs, dtype=x_RI.dtype, device=x_RI.device)
    _matmul[ceil_div(num_outputs, _TILE_OUTPUTS), ceil_div(num_rows, TILE_ROWS)](
        x_RI,
        weight_OI,
        weight_OI if bias_O is None else bias_O,
        out_RO,
        num_rows,
        INPUTS=num_inputs,
        OUTPUTS=num_outputs,
        TILE_R=TILE_ROWS,
        TILE_O=_TILE_OUTPUTS,
        TILE_I=_TILE_INPUTS,
        NUM_STAGES=_NUM_STAGES[x_RI.element_size()],
        HAS_BIAS=bias_O is not None,
        num_warps=4,
    )
    return out_RO


def matmul_reference(x_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """`matmul` in torch."""
    y_RO = x_RI.float() @ weight_OI.float().T
    return (y_RO if bias_O is None else y_RO + bias_O.float()).to(x_RI.dtype)


@Kernel
def _matmul(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_O: tl.constexpr,
    TILE_I: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    r = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)
    o = tl.program_id(0) * TILE_O + tl.arange(0, TILE_O)
    i = tl.arange(0, TILE_I)
    x_ptrs = x_ptr + r.to(tl.int64)[:, None] * INPUTS + i[None, :]
    weight_ptrs = weight_ptr + o.to(tl.int64)[None, :] * INPUTS + i[:, None]
    total = tl.zeros((TILE_R, TILE_O), dtype=tl.float32)
    for start in tl.range(0, INPUTS, TILE_I, num_stages=NUM_STAGES):
        is_input = start + i < INPUTS
        x = tl.load(x_ptrs + start, mask=(r < num_rows)[:, None] & is_input[None, :], other=0.0)
        weight = tl.load(weight_ptrs + start, mask=(o < OUTPUTS)[None, :] & is_input[:, None], other=0.0)
        total = tl.dot(x, weight, total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias_ptr + o, mask=o < OUTPUTS, other=0.0).to(tl.float32)[None, :]
    out_ptrs = out_ptr + r.to(tl.int64)[:, None] * OUTPUTS + o[None, :]
    tl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=(r < num_rows)[:, None] & (o < OUTPUTS)[None, :])
