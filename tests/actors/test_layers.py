"""SiLU: its values, which do not depend on a number's position or on the number of threads."""

from __future__ import annotations

import pytest
import torch

from actors.layers import silu, silu_


def test_the_values_are_those_of_the_formula() -> None:
    x = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0])

    expected = torch.tensor([0.0, -0.2689414213699951, 0.0, 0.7310585786300049, 200.0])
    torch.testing.assert_close(silu(x), expected)
    assert silu(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_has_the_same_bits_at_any_position(dtype: torch.dtype) -> None:
    x = (torch.randn(40_000, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    whole = silu(x)

    for start in range(0, 400, 7):
        torch.testing.assert_close(silu(x[start : start + 1001]), whole[start : start + 1001], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_the_bits_do_not_depend_on_the_threads_or_on_neighbors(dtype: torch.dtype) -> None:
    maps = (torch.randn(5, 32, 37, 41, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = silu_(maps.clone())
        torch.testing.assert_close(whole, silu(maps))
        for num in (1, 2, 3, 5):
            torch.set_num_threads(num)
            for part in (slice(0, 5), slice(1, 3), slice(4, 5)):
                assert torch.equal(silu_(maps[part].clone()), whole[part]), f"{num} threads"
    finally:
        torch.set_num_threads(num_threads)


def test_in_place_nothing_is_overwritten_where_gradients_flow() -> None:
    x = torch.ones(32, requires_grad=True)
    silu_(x).sum().backward()
    assert torch.equal(x.detach(), torch.ones(32))
