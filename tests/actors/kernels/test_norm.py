"""The residual sum and the norm behind it, as one kernel."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.norm import add_norm, add_norm_reference
from tests.support.triton import DEVICE, needs_triton, random

EPS = 1e-6


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "num_channels"), [(1, 64), (5, 100)])
def test_sum_and_norm_are_the_references(num_rows: int, num_channels: int, dtype: torch.dtype) -> None:
    x, y = (random(num_rows, num_channels, seed=seed, dtype=dtype) for seed in range(2))
    weight = random(num_channels, seed=2, dtype=dtype)
    for other in (y, None):
        total, normed = add_norm(x, other, weight, EPS)
        expected_total, expected = add_norm_reference(x, other, weight, EPS)
        assert torch.equal(total, expected_total)
        torch.testing.assert_close(normed, expected)


@needs_triton
def test_without_a_second_part_the_sum_is_the_first_itself() -> None:
    x, weight = random(3, 64), random(64)
    assert add_norm(x, None, weight, EPS)[0] is x


@needs_triton
def test_a_rows_bits_do_not_depend_on_its_neighbors() -> None:
    x, y, weight = random(7, 96), random(7, 96, seed=1), random(96, seed=2)
    expected = add_norm(x, y, weight, EPS)
    x[3] = torch.nan
    rows = torch.tensor([6, 3, 0, 5], device=DEVICE)
    for whole, part in zip(expected, add_norm(x[rows], y[rows], weight, EPS), strict=True):
        assert torch.equal(part[[0, 2, 3]], whole[rows[[0, 2, 3]]])
        assert part[1].isnan().all()


@needs_triton
def test_no_rows_give_none() -> None:
    assert add_norm(random(0, 64), random(0, 64), random(64), EPS)[1].shape == (0, 64)
