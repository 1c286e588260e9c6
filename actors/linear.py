"""Matrices for the decode loop: a row's product has the same bits whatever other rows stand beside it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

# With fewer rows oneDNN takes a kernel for vectors, which adds up in another order.
MIN_ROWS = 2


class Linear:
    """`x @ weight.T + bias` for x of shape [R, I], with R >= MIN_ROWS for the promise above to hold.

    On a CPU the weight is packed once for oneDNN: measured with torch 2.13, a row's bits are then the same for 2 to 128
    rows and 1 to 16 threads, in float32 and bfloat16. Plain float32 matrices go to MKL, where they differ between 1,
    2-3 and 4 rows a thread. Packed float32 matrices are also up to 4 times as fast at a few rows.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> None:
        self.is_packed = weight_OI.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI) if self.is_packed else weight_OI
        self.bias_O = bias_O

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(x_RI, self.weight, self.bias_O, "none", [], "")
        return F.linear(x_RI, self.weight, self.bias_O)
