"""Matrices for the decode loop: a row's product has the same bits in any batch.

On a GPU a kernel of our own multiplies. On a CPU a weight is packed once for oneDNN. Measured with torch 2.13 in
float32 and bfloat16: a row's bits are then the same for 2 to 128 rows and 1 to 16 threads. Plain float32 matrices go to
MKL, where they differ between 1, 2-3 and 4 rows per thread, and torch's float32 `silu` rounds differently where a
thread's share ends. Packed float32 matrices are also up to 4 times as fast with a few rows.

Shapes: R rows, I input and O output channels.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

import torch
from torch.nn import functional as F

from actors.kernels.matmul import matmul

MIN_ROWS = 2  # on a CPU: a single row goes to a kernel for vectors, which adds up in another order

Activation = Literal["none", "silu", "gelu"]

# name -> oneDNN's name, its algorithm (for gelu: by the error function, not by tanh), and torch's function
_ACTIVATIONS = {"none": ("none", "", None), "silu": ("swish", "", F.silu), "gelu": ("gelu", "none", F.gelu)}


class Linear:
    """`activation(x @ weight.T + bias)` for x of shape [R, I]; on a CPU with R >= MIN_ROWS."""

    def __init__(
        self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, activation: Activation = "none"
    ) -> None:
        self.is_packed = _can_pack(weight_OI)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI) if self.is_packed else weight_OI
        self.bias_O = bias_O
        self.packed_activation, self.packed_algorithm, self.activation = _ACTIVATIONS[activation]

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(
                x_RI, self.weight, self.bias_O, self.packed_activation, [], self.packed_algorithm
            )
        product = F.linear if self.weight.device.type == "cpu" else matmul
        y_RO = product(x_RI, self.weight, self.bias_O)
        return self.activation(y_RO) if self.activation else y_RO


class GatedLinear:
    """`silu(x @ gate.T) * (x @ up.T)` on a CPU: two products with a fused SiLU where weights are packed, else one."""

    def __init__(self, gate_OI: torch.Tensor, up_OI: torch.Tensor) -> None:
        if _can_pack(gate_OI):
            self.matrices = (Linear(gate_OI, activation="silu"), Linear(up_OI))
        else:
            self.matrices = (Linear(torch.cat((gate_OI, up_OI))),)

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        if len(self.matrices) == 2:
            gate, up = self.matrices
            return gate(x_RI).mul_(up(x_RI))
        gate_RO, up_RO = self.matrices[0](x_RI).chunk(2, dim=-1)
        return F.silu(gate_RO) * up_RO


class Mlp:
    """Two matrices with an exact (erf) GELU between them."""

    def __init__(self, weights: MutableMapping[str, torch.Tensor], first: str, second: str) -> None:
        self.first = Linear(weights.pop(f"{first}.weight"), weights.pop(f"{first}.bias"), activation="gelu")
        self.second = Linear(weights.pop(f"{second}.weight"), weights.pop(f"{second}.bias"))

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x_RI))


def _can_pack(weight_OI: torch.Tensor) -> bool:
    return weight_OI.device.type == "cpu" and torch.backends.mkldnn.is_available()
