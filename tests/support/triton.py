"""Where the tests of kernels run: on the GPU where there is one, else in Triton's interpreter (see conftest.py).

The interpreter (3.7 to 3.9) differs from a GPU in three ways that tests would see: it truncates to bfloat16 instead of
rounding, it loses the carry when it rounds to fp8, and it multiplies tiles with numpy, where a row's bits depend on its
place in the tile. `_correct_interpreter` replaces the three.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None

_skip_without_triton = pytest.mark.skipif(
    not HAS_TRITON, reason="Triton is not installed: pip install triton (Linux only)"
)


def needs_triton(test):
    """Mark a test that launches Triton kernels."""
    return pytest.mark.interpreter(_skip_without_triton(test))


def needs_gpu(test):
    """Mark a test that runs on a CUDA GPU alone."""
    return pytest.mark.gpu(pytest.mark.skipif(DEVICE.type != "cuda", reason="there is no GPU")(test))


def random(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers on DEVICE."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def rotary_tables(num_positions: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [T, D], the first half of the sines negated."""
    frequency = 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=1).to(DEVICE), torch.cat((-sin, sin), dim=1).to(DEVICE)


def _correct_interpreter() -> None:
    from triton.runtime import interpreter

    convert, handle_class = interpreter._convert_float, interpreter.TensorHandle
    dtypes = {"bf16": (torch.bfloat16, np.uint16), "fp8e4nv": (torch.float8_e4m3fn, np.uint8)}

    def convert_float(data: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
        if source.name != "fp32" or target.name not in dtypes:
            return convert(data, source, target, rounding_mode)
        dtype, bits = dtypes[target.name]
        rounded = torch.from_numpy(np.array(data, dtype=np.float32)).to(dtype)
        return rounded.view(getattr(torch, np.dtype(bits).name)).numpy()

    def create_dot(builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        wide_a, wide_b = (
            x.data.astype(np.float64)
            if x.dtype.name != "bf16"
            else convert(x.data, x.dtype, interpreter.tl.float32, None).view(np.float32).astype(np.float64)
            for x in (a, b)
        )
        return handle_class((wide_a @ wide_b).astype(np.float32) + d.data, d.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot


if DEVICE.type == "cpu" and HAS_TRITON:
    _correct_interpreter()
