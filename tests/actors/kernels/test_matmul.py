"""A product whose bits for a row do not depend on the number of rows."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.matmul import TILE_ROWS, matmul, matmul_reference, tile_for
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
@pytest.mark.parametrize("num_outputs", [2048, 4096, 8192])
def test_every_tile_gives_the_references_product(num_outputs: int) -> None:
    x, weight = (random(rows, 80, seed=rows, dtype=torch.bfloat16) for rows in (TILE_ROWS + 2, num_outputs - 5))
    torch.testing.assert_close(matmul(x, weight), matmul_reference(x, weight))


@pytest.mark.parametrize(
    ("num_outputs", "tile_outputs"),
    [(8, 64), (2048, 64), (4095, 64), (4096, 128), (6144, 128), (8192, 256), (30000, 256)],
)
def test_a_wide_weight_has_wide_tiles_but_at_least_32_of_them(num_outputs: int, tile_outputs: int) -> None:
    assert tile_for(num_outputs, 2, 227 * 1024).outputs == tile_outputs


@pytest.mark.parametrize("num_outputs", [2048, 4096, 8192])
@pytest.mark.parametrize(("shared_bytes", "has_wgmma"), [(227 * 1024, True), (163 * 1024, False), (99 * 1024, False)])
def test_the_stages_of_a_tile_fit_into_a_gpus_shared_memory(
    num_outputs: int, shared_bytes: int, has_wgmma: bool
) -> None:
    """H100, A100 and cards for desktops; without wgmma Triton holds one buffer fewer than stages."""
    tile = tile_for(num_outputs, 2, shared_bytes)
    num_buffers = tile.num_stages if has_wgmma else tile.num_stages - 1
    assert tile.num_stages >= 3
    assert num_buffers * (tile.rows + tile.outputs) * 64 * 2 <= shared_bytes


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_bits_depend_neither_on_the_number_of_rows_nor_on_its_place(dtype: torch.dtype) -> None:
    x, weight = random(TILE_ROWS + 9, 128, dtype=dtype), random(70, 128, seed=1, dtype=dtype)
    expected = matmul(x, weight)
    x[1] = torch.nan
    for rows in ([5], [8, 5], [TILE_ROWS + 3, 1, 5, 2], [*range(2, TILE_ROWS + 9)]):
        part = matmul(x[rows], weight)
        good = [place for place, row in enumerate(rows) if row != 1]
        assert torch.equal(part[good], expected[torch.tensor(rows, device=DEVICE)[good]]), f"{len(rows)} rows"
        assert part[[place for place, row in enumerate(rows) if row == 1]].isnan().all()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_outputs", [2048, 6144, 11264])
def test_bits_of_the_published_sizes_do_not_depend_on_the_number_of_rows(num_outputs: int, dtype: torch.dtype) -> None:
    """On the GPU itself: the interpreter cannot tell how its matrix units add."""
    x, weight = random(512, 2048, dtype=dtype), random(num_outputs, 2048, seed=1, dtype=dtype)
    expected = matmul(x, weight)
    for num_rows in (1, 2, 16, 63, 64, 100, 128, 255, 300):
        assert torch.equal(matmul(x[-num_rows:], weight), expected[-num_rows:]), f"{num_rows} rows"


@needs_triton
def test_no_rows_give_none() -> None:
    assert matmul(random(0, 64), random(8, 64)).shape == (0, 8)
