"""Rotary embedding of many tokens, with keys and values put in their slots."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.rotary import rotate_and_store, rotate_and_store_reference
from tests.support.triton import DEVICE, needs_triton, random, rotary_tables

HEAD_DIM = 16


def token_places(num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that repeat and slots that do not."""
    order = torch.randperm(num_tokens + 3, generator=torch.Generator().manual_seed(0))[:num_tokens]
    return (torch.arange(num_tokens) % 5).to(DEVICE), order.to(DEVICE)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (6, 2), (3, 3)])
def test_queries_keys_and_values_are_the_references(num_heads: int, num_kv_heads: int, dtype: torch.dtype) -> None:
    qkv = random(7, (num_heads + 2 * num_kv_heads) * HEAD_DIM, dtype=dtype)
    position_T, slot_T = token_places(7)
    kv, expected_kv = (random(2, 10, num_kv_heads, HEAD_DIM, seed=1, dtype=dtype) for _ in range(2))
    tables = rotary_tables(8, HEAD_DIM)

    queries = rotate_and_store(qkv, kv, position_T, slot_T, *tables)
    expected = rotate_and_store_reference(qkv, expected_kv, position_T, slot_T, *tables)

    torch.testing.assert_close(queries, expected)
    torch.testing.assert_close(kv, expected_kv)


@needs_triton
def test_a_token_of_nans_leaves_its_neighbors_alone() -> None:
    qkv, (position_T, slot_T), tables = random(6, 3 * 2 * HEAD_DIM), token_places(6), rotary_tables(8, HEAD_DIM)
    kv, kv_with_nan = (torch.zeros(2, 9, 2, HEAD_DIM, device=DEVICE) for _ in range(2))
    expected = rotate_and_store(qkv, kv, position_T, slot_T, *tables)
    qkv[2] = torch.nan
    queries = rotate_and_store(qkv, kv_with_nan, position_T, slot_T, *tables)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(queries[others], expected[others])
    assert torch.equal(kv_with_nan[:, slot_T[others]], kv[:, slot_T[others]])
