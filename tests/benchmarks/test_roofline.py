"""The counts behind `limit` in the engines' table, against closed forms."""

from __future__ import annotations

import pytest
import torch

from benchmarks.roofline import Ceilings, flow_limit, janus_limit, uvit_flops, vq_flops
from tests.support.checkpoints import DATA, fetched

ARITHMETIC_ONLY = Ceilings(bytes_per_s=float("inf"), flops_per_s=1.0)
BYTES_ONLY = Ceilings(bytes_per_s=1.0, flops_per_s=float("inf"))


def shape_of(name: str):
    return fetched(DATA / name).shape


# janus-tiny: 2 layers of 64 channels, 4 heads, 176 hidden channels; a head of 64 channels and 64 codes; 36 codes.
NUM_WEIGHTS = 2 * (4 * 64 * 64 + 3 * 64 * 176) + 64 * (64 + 64)


@pytest.mark.parametrize("num_images", [1, 3])
def test_janus_reads_its_matrices_once_per_step_and_every_rows_cache(num_images: int) -> None:
    num_keys = sum(10 + step for step in range(36))
    expected = 36 * NUM_WEIGHTS * 2 + 2 * num_images * num_keys * (2 * 2 * 64) * 4
    limit = janus_limit(shape_of("janus-tiny"), torch.bfloat16, torch.float32, 10, num_images, BYTES_ONLY)
    assert limit == pytest.approx(expected)


def test_janus_multiplies_every_row_with_its_matrices_and_its_keys() -> None:
    shape = shape_of("janus-tiny")
    num_keys = sum(10 + step for step in range(36))
    last = 64 * 64  # of the head: one row an image
    expected = 36 * 2 * (2 * NUM_WEIGHTS - last) + 2 * num_keys * (4 * 2 * 64) + vq_flops(shape)
    assert janus_limit(shape, torch.float32, torch.float32, 10, 1, ARITHMETIC_ONLY) == pytest.approx(expected)


def test_janusflow_multiplies_every_token_of_two_rows_at_every_step() -> None:
    shape = shape_of("janusflow-tiny")
    num_weights, num_tokens = 2 * (4 * 64 * 64 + 3 * 64 * 176), 37
    keys = num_tokens * (num_tokens + 1) / 2 + num_tokens * (10 + 1) / 2
    a_row = 2 * num_tokens * num_weights + keys * (4 * 2 * 64) + uvit_flops(shape)
    assert flow_limit(shape, 1000.0, 10, 5, 3, ARITHMETIC_ONLY) == pytest.approx(3 * (2 * 5 * a_row + 1000.0))
