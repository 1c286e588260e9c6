"""Packed matrices: their values, and rows whose bits do not depend on other rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from actors.llama.linear import MIN_ROWS, GatedLinear, Linear
from tests.support.dtypes import BIT_EQUAL_DTYPES, DTYPES

ACTIVATIONS = {"none": lambda x: x, "silu": F.silu, "gelu": F.gelu}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.04}  # sums of 176 products of order 1, rounded to the dtype


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(num_threads)


def random(*size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_linear_is_the_formula_computed_in_float64(activation: str, dtype: torch.dtype) -> None:
    x, weight, bias = random(5, 176, dtype=dtype), random(60, 176, dtype=dtype, seed=1) / 13, random(60, dtype=dtype)
    expected = ACTIVATIONS[activation](x.double() @ weight.double().T + bias.double())

    for computed in (
        Linear(weight, bias, activation=activation)(x),
        Linear(weight, bias, activation)(x[:, None])[:, 0],
    ):
        assert computed.dtype == dtype
        torch.testing.assert_close(computed.double(), expected, rtol=0, atol=TOLERANCES[dtype])


def test_a_gated_linear_is_the_formula_computed_in_float64(dtype: torch.dtype) -> None:
    x, gate, up = (
        random(5, 176, dtype=dtype),
        random(60, 176, dtype=dtype) / 13,
        random(60, 176, dtype=dtype, seed=1) / 13,
    )
    expected = F.silu(x.double() @ gate.double().T) * (x.double() @ up.double().T)

    torch.testing.assert_close(GatedLinear(gate, up)(x).double(), expected, rtol=0, atol=2 * TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", BIT_EQUAL_DTYPES)
@pytest.mark.parametrize(("num_in", "num_out"), [(64, 192), (176, 64), (256, 1376), (2048, 2048)])
def test_a_rows_bits_do_not_depend_on_the_number_of_rows_or_threads(
    num_in: int, num_out: int, dtype: torch.dtype
) -> None:
    x = random(64, num_in, dtype=dtype)
    linear = Linear(random(num_out, num_in, dtype=dtype, seed=1), random(num_out, dtype=dtype), activation="silu")
    torch.set_num_threads(1)
    expected = linear(x)

    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        for num_rows in (MIN_ROWS, 3, 4, 5, 7, 16, 33, 50):
            assert torch.equal(linear(x[-num_rows:].contiguous()), expected[-num_rows:]), f"{num_rows}, {num_threads}"
