"""The dtypes that tests of single parts run in: unlike an engine, a part does not avoid dtypes that the CPU lacks."""

from __future__ import annotations

import pytest
import torch

from actors.device import compute_dtype

_CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    compute_dtype(torch.bfloat16, _CPU) != torch.bfloat16,
    reason="this CPU has no bfloat16 instructions; engines compute in float32 on it",
)
DTYPES = [
    pytest.param(torch.float32, id="float32"),
    pytest.param(torch.bfloat16, id="bfloat16", marks=needs_bfloat16),
]
