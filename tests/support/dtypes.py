"""The dtypes that tests of single parts run in: unlike an engine, a part does not avoid dtypes that the CPU lacks."""

from __future__ import annotations

import pytest
import torch

from actors.device import compute_dtype
from tests.support.hardware import has_measured_bfloat16

_CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    compute_dtype(torch.bfloat16, _CPU) != torch.bfloat16,
    reason="this CPU has no bfloat16 instructions; engines compute in float32 on it",
)
DTYPES = [
    pytest.param(torch.float32, id="float32"),
    pytest.param(torch.bfloat16, id="bfloat16", marks=needs_bfloat16),
]
# For tests that compare the bits of bfloat16 products with other numbers of rows or threads.
BIT_EQUAL_DTYPES = [
    DTYPES[0],
    pytest.param(torch.bfloat16, id="bfloat16", marks=[needs_bfloat16, has_measured_bfloat16]),
]
