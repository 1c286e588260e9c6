"""The gate of a feed-forward layer, as one kernel."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.silu import silu_mul, silu_mul_reference
from tests.support.triton import needs_triton, random


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "num_channels"), [(1, 8), (3, 1500), (0, 8)])
def test_the_gate_is_the_references(num_rows: int, num_channels: int, dtype: torch.dtype) -> None:
    gate_up = random(num_rows, 2 * num_channels, dtype=dtype) * 5
    torch.testing.assert_close(silu_mul(gate_up), silu_mul_reference(gate_up))


@needs_triton
def test_a_rows_bits_do_not_depend_on_its_neighbors() -> None:
    gate_up = random(5, 48)
    expected = silu_mul(gate_up)
    gate_up[2] = torch.nan
    assert torch.equal(silu_mul(gate_up)[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
    assert torch.equal(silu_mul(gate_up[4:]), expected[4:])
