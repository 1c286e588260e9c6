"""A matrix product whose bits for a row do not depend on how many rows there are.

Libraries choose a kernel by the number of rows, and another kernel adds up in another order. Here every product of a
weight has one tile shape and walks its input channels from the first to the last.

Shapes: R rows, I input and O output channels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from actors.kernels.jit import Kernel, ceil_div

if TYPE_CHECKING:
    import triton.language as tl

TILE_ROWS = 128  # of a 16-bit product
_TILE_INPUTS = 64
_MOST_OUTPUTS = 256  # of a tile: with 128 rows it takes half of a multiprocessor's registers
_NUM_TILES = 32  # that the widest tile leaves of a weight: with 256 rows, 64 programs or more
_MIN_SHARED_BYTES = 96 * 1024  # of a program, on every GPU since Ampere
_MOST_STAGES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one program computes, and how many steps ahead it loads. `num_stages` and `num_warps` change no bits."""

    rows: int
    outputs: int
    num_warps: int
    num_stages: int


def matmul(x_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias`, [R, O], for contiguous tensors of one dtype; summed in float32, rounded once.

    A row's bits depend on the row and the weight alone: a program computes a whole tile, with zeros for the rows that
    the last tile lacks, the tile does not depend on the number of rows, and no sum is shared between programs.
    """
    num_rows, num_inputs, num_outputs = len(x_RI), x_RI.shape[1], len(weight_OI)
    tile = tile_for(num_outputs, x_RI.element_size(), _shared_bytes(x_RI.device))
    out_RO = torch.empty(num_rows, num_outputs, dtype=x_RI.dtype, device=x_RI.device)
    _matmul[ceil_div(num_outputs, tile.outputs), ceil_div(num_rows, tile.rows)](
        x_RI,
        weight_OI,
        weight_OI if bias_O is None else bias_O,
        out_RO,
        num_rows,
        INPUTS=num_inputs,
        OUTPUTS=num_outputs,
        TILE_R=tile.rows,
        TILE_O=tile.outputs,
        TILE_I=_TILE_INPUTS,
        NUM_STAGES=tile.num_stages,
        HAS_BIAS=bias_O is not None,
        num_warps=tile.num_warps,
    )
    return out_RO


@functools.cache
def tile_for(num_outputs: int, bytes_per_number: int, shared_bytes: int) -> Tile:
    """The tile of a weight with that many outputs, on a GPU that gives a program so much shared memory.

    A GPU's cache delivers the tiles' inputs, and a large tile uses each of them more often: with 128 x 256 instead of
    64 x 64, 256 rows of a wide weight take about a third of the time. A narrow weight has smaller tiles, so that they
    occupy more multiprocessors. Numbers of 32 bits are multiplied without matrix units, where a small tile suffices.
    """
    if bytes_per_number == 4:
        return Tile(rows=64, outputs=64, num_warps=4, num_stages=3)
    outputs = 64
    while outputs < _MOST_OUTPUTS and num_outputs >= 2 * outputs * _NUM_TILES:
        outputs *= 2
    bytes_per_stage = (TILE_ROWS + outputs) * _TILE_INPUTS * bytes_per_number
    # On GPUs with little shared memory, three stages of the widest tile are two buffers, which fit.
    num_stages = min(_MOST_STAGES, max(3, shared_bytes // bytes_per_stage))
    return Tile(rows=TILE_ROWS, outputs=outputs, num_warps=8, num_stages=num_stages)


@functools.cache
def _shared_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _MIN_SHARED_BYTES
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


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
