"""The residual sum and the RMS norm behind it, https://arxiv.org/abs/1910.07467, as one kernel.

Shapes: R rows, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from actors.kernels.jit import Kernel, power_of_two

if TYPE_CHECKING:
    import triton.language as tl


def add_norm(
    x_RC: torch.Tensor, y_RC: torch.Tensor | None, weight_C: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + y`, rounded to their dtype, and `rms_norm(s) * weight`; without `y`, `s` is `x` itself.

    A row's bits depend on the row alone: one program sums a row's squares, in float32.
    """
    sum_RC = x_RC if y_RC is None else torch.empty_like(x_RC)
    out_RC = torch.empty_like(x_RC)
    num_channels = x_RC.shape[1]
    _add_norm[(len(x_RC),)](
        x_RC,
        x_RC if y_RC is None else y_RC,
        weight_C,
        sum_RC,
        out_RC,
        eps,
        C=num_channels,
        BLOCK=power_of_two(num_channels),
        HAS_Y=y_RC is not None,
        num_warps=8,
    )
    return sum_RC, out_RC


def add_norm_reference(
    x_RC: torch.Tensor, y_RC: torch.Tensor | None, weight_C: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_norm` in torch."""
    sum_RC = x_RC if y_RC is None else x_RC + y_RC
    return sum_RC, F.rms_norm(sum_RC.float(), weight_C.shape, weight_C.float(), eps).to(x_RC.dtype)


@Kernel
def _add_norm(
    x_ptr, y_ptr, weight_ptr, sum_ptr, out_ptr, eps, C: tl.constexpr, BLOCK: tl.constexpr, HAS_Y: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    is_channel = c < C
    x = tl.load(x_ptr + row * C + c, mask=is_channel, other=0.0).to(tl.float32)
    if HAS_Y:
        y = tl.load(y_ptr + row * C + c, mask=is_channel, other=0.0).to(tl.float32)
        rounded = (x + y).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * C + c, rounded, mask=is_channel)
        x = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / C + eps)
    weight = tl.load(weight_ptr + c, mask=is_channel, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * C + c, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=is_channel)
