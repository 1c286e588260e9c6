"""Matrices in fp8: weights and what they multiply in float8 (e4m3), a scale for each output channel and for each row.

Half the bytes of bfloat16 and twice the rate on a GPU that has it; a row's scale is its own, so its bits do not depend
on its neighbours. A CPU computes in float32 with the numbers that fp8 leaves: the rounding without the speed. Only the
layers' matrices are in fp8: embeddings, the generation head and the picture decoder stay in bfloat16.

Shapes: R rows, I input and O output channels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from actors.errors import CheckpointError
from actors.layers import silu
from actors.llama.linear import Linear

FP8 = torch.float8_e4m3fn
MIN_CAPABILITY = (8, 9)  # of a GPU: Ada and Hopper are the first whose matrix units multiply it


def to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix in fp8 and the scale of each of its rows, float32 [rows, 1]: the largest number becomes the largest."""
    largest = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    scale = largest.clamp(min=1e-12) / torch.finfo(FP8).max
    return (x / scale).to(FP8), scale  # divided in float32, as the scale is


class Fp8Linear:
    """`x @ weight.T` for x of shape [R, I]. Raises CheckpointError on a GPU without fp8."""

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.is_emulated = weight_OI.device.type == "cpu"
        if not self.is_emulated:
            _check_gpu(weight_OI.device)
        self.weight_OI, self.scale_O1 = to_fp8(weight_OI)
        if self.is_emulated:
            self._linear = Linear(self.weight_OI.float() * self.scale_O1)

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        q_RI, scale_R1 = to_fp8(x_RI)
        if self.is_emulated:
            return self._linear(q_RI.float() * scale_R1).to(x_RI.dtype)
        return self.multiply(q_RI, scale_R1, x_RI.dtype)

    def multiply(self, q_RI: torch.Tensor, scale_R1: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The product on a GPU, in `dtype`."""
        row_wise = F.ScalingType.RowWise
        return F.scaled_mm(q_RI, self.weight_OI.T, scale_R1, row_wise, self.scale_O1.T, row_wise, output_dtype=dtype)


class Fp8GatedLinear:
    """`silu(x @ gate.T) * (x @ up.T)`, both matrices in one product."""

    def __init__(self, gate_OI: torch.Tensor, up_OI: torch.Tensor) -> None:
        self.both = Fp8Linear(torch.cat((gate_OI, up_OI)))

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        gate_RO, up_RO = self.both(x_RI).chunk(2, dim=-1)
        return silu(gate_RO) * up_RO


def _check_gpu(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        raise CheckpointError(
            f"model.dtype: fp8 needs a GPU of compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or newer, "
            f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}; allowed here are bfloat16 and "
            "float32"
        )
