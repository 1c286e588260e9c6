"""Matrices in fp8: what rounding leaves, the GPU's product beside the CPU's, rows that do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from actors.llama.fp8 import FP8, Fp8GatedLinear, Fp8Linear, to_fp8
from tests.actors.llama.test_linear import random

FLOAT32 = torch.float32


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def rounded(x: torch.Tensor) -> torch.Tensor:
    q, scale = to_fp8(x)
    return q.double() * scale


def test_a_rows_largest_number_is_the_largest_of_fp8_and_others_lose_at_most_a_sixteenth() -> None:
    x = random(9, 176, dtype=FLOAT32) * torch.logspace(-9, 9, 9)[:, None]
    q, scale = to_fp8(x)

    assert q.float().abs().amax(dim=1).tolist() == [torch.finfo(FP8).max] * 9
    error = (q.double() * scale - x).abs()
    assert (error <= (x.abs() / 16).clamp(min=2**-9 * scale)).all()


def test_zeros_stay_zeros_and_a_nan_stays_in_its_row() -> None:
    x = random(3, 32, dtype=FLOAT32)
    x[0], x[1, 5] = 0, torch.nan

    assert rounded(x)[0].tolist() == [0.0] * 32
    assert rounded(x)[1].isnan().all()
    assert torch.equal(rounded(x)[2], rounded(x[2:])[0])


def test_a_product_is_that_of_the_rounded_numbers() -> None:
    x, weight = random(5, 176, dtype=FLOAT32), random(64, 176, dtype=FLOAT32, seed=1)

    expected = rounded(x) @ rounded(weight).T

    torch.testing.assert_close(Fp8Linear(weight)(x).double(), expected, rtol=0, atol=1e-4)


def test_what_a_gpu_computes_is_what_a_cpu_computes() -> None:
    x, linear = random(5, 176, dtype=FLOAT32), Fp8Linear(random(64, 176, dtype=FLOAT32, seed=1))

    torch.testing.assert_close(linear.multiply(*to_fp8(x), FLOAT32), linear(x), rtol=0, atol=1e-4)


def test_a_gated_product_is_two_products() -> None:
    x = random(5, 176, dtype=FLOAT32)
    gate, up = (random(64, 176, dtype=FLOAT32, seed=seed) / 13 for seed in (1, 2))

    expected = torch.nn.functional.silu(Fp8Linear(gate)(x)) * Fp8Linear(up)(x)

    torch.testing.assert_close(Fp8GatedLinear(gate, up)(x), expected, rtol=0, atol=1e-5)


def test_a_rows_bits_do_not_depend_on_the_rows_beside_it() -> None:
    x, linear = random(33, 176, dtype=FLOAT32), Fp8Linear(random(64, 176, dtype=FLOAT32, seed=1))
    for num_rows in (2, 3, 16, 33):
        assert torch.equal(linear(x[:num_rows]), linear(x)[:num_rows])
