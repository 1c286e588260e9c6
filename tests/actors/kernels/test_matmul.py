"""A product whose bits for a row do not depend on the number of rows."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.matmul import TILE_ROWS, matmul, matmul_reference
from tests.support.triton import DEVICE, needs_gpu, needs_triton, random


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "num_inputs", "num_outputs"), [(1, 64, 64), (70, 100, 130), (3, 256, 8)])
def test_the_product_is_the_references(num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype) -> None:
    x = random(num_rows, num_inputs, dtype=dtype)
    weight, bias = random(num_outputs, num_inputs, seed=1, dtype=dtype), random(num_outputs, seed=2, dtype=dtype)
    for optional in (bias, None):
        torch.testing.assert_close(matmul(x, weight, optional), matmul_reference(x, weight, optional))


@needs_triton
def test_a_rows_bits_depend_neither_on_the_number_of_rows_nor_on_its_place() -> None:
    x, weight = random(TILE_ROWS + 9, 128), random(70, 128, seed=1)
    expected = matmul(x, weight)
    x[1] = torch.nan
    for rows in ([5], [8, 5], [TILE_ROWS + 3, 1, 5, 2], [*range(2, TILE_ROWS + 9)]):
        part = matmul(x[rows], weight)
        good = [place for place, row in enumerate(rows) if row != 1]
        assert torch.equal(part[good], expected[torch.tensor(rows, device=DEVICE)[good]]), f"{len(rows)} rows"
        assert part[[place for place, row in enumerate(rows) if row == 1]].isnan().all()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_the_published_sizes_do_not_depend_on_the_number_of_rows(dtype: torch.dtype) -> None:
    """On the GPU itself: the interpreter cannot tell how its matrix units add."""
    x, weight = random(256, 2048, dtype=dtype), random(6144, 2048, seed=1, dtype=dtype)
    expected = matmul(x, weight)
    for num_rows in (1, 2, 16, 63, 64, 100, 255):
        assert torch.equal(matmul(x[-num_rows:], weight), expected[-num_rows:]), f"{num_rows} rows"


@needs_triton
def test_no_rows_give_none() -> None:
    assert matmul(random(0, 64), random(8, 64)).shape == (0, 8)
