"""SiLU: its values, and that they do not depend on where a number stands."""

from __future__ import annotations

import pytest
import torch

from actors.silu import silu


def test_the_values_are_those_of_the_formula() -> None:
    x = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0])

    expected = torch.tensor([0.0, -0.2689414213699951, 0.0, 0.7310585786300049, 200.0])
    torch.testing.assert_close(silu(x), expected)
    assert silu(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_has_the_same_bits_wherever_it_stands(dtype: torch.dtype) -> None:
    x = (torch.randn(40_000, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    whole = silu(x)

    for start in range(0, 400, 7):
        torch.testing.assert_close(silu(x[start : start + 1001]), whole[start : start + 1001], rtol=0, atol=0)
