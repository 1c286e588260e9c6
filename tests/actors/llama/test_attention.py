"""Attention of a CPU to its cache gives the formula's numbers and keeps rows apart."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from actors.llama.attention import BLOCK, BagAttention

LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 70)  # of the rows' prompts: within a block, at its end, over it
NUM_LAYERS, NUM_HEADS, NUM_SLOTS, WIDTH = 2, 3, 4 * BLOCK, 24


def prompt(num_tokens: int) -> torch.Tensor:
    """Keys and values, [L, 2, K, tokens, D]."""
    return torch.randn(NUM_LAYERS, 2, NUM_HEADS, num_tokens, WIDTH, generator=torch.Generator().manual_seed(num_tokens))


def queries_keys_values(step: int) -> torch.Tensor:
    """The new query, key and value of every row and head, [3, R, K, D]."""
    return torch.randn(3, len(LENGTHS), NUM_HEADS, WIDTH, generator=torch.Generator().manual_seed(1000 + step))


def attend_for_some_steps(num_steps: int) -> list[torch.Tensor]:
    """The outputs of the last layer, step by step, each [R, K, D]."""
    cache = torch.zeros(NUM_LAYERS, 2, len(LENGTHS), NUM_HEADS, NUM_SLOTS, WIDTH)
    for row, length in enumerate(LENGTHS):
        BagAttention.put_prompt(cache, row, prompt(length))
    results = []
    for step in range(num_steps):
        attention = BagAttention(torch.tensor(LENGTHS) + step, cache.shape)
        q, k, v = queries_keys_values(step)
        attention.put(cache[-1], k, v)
        results.append(attention.attend(q, cache[-1]))
    return results


def test_every_row_attends_to_its_prompt_and_its_new_tokens() -> None:
    results = attend_for_some_steps(BLOCK + 2)
    for row, length in enumerate(LENGTHS):
        keys, values = prompt(length)[-1]
        for step, attended in enumerate(results):
            q, k, v = queries_keys_values(step)
            keys = torch.cat([keys, k[row, :, None]], dim=1)
            values = torch.cat([values, v[row, :, None]], dim=1)
            expected = F.scaled_dot_product_attention(q[row, :, None], keys, values).squeeze(1)
            torch.testing.assert_close(attended[row], expected, rtol=0, atol=1e-5)


def test_slots_that_no_row_has_reached_are_not_read() -> None:
    """Reading them would change nothing, as they are masked, but take time."""
    cache = torch.zeros(NUM_LAYERS, 2, 1, NUM_HEADS, NUM_SLOTS, WIDTH)
    cache[:, :, :, :, BLOCK:] = torch.nan
    BagAttention.put_prompt(cache, 0, prompt(BLOCK - 1))
    attention = BagAttention(torch.tensor([BLOCK - 1]), cache.shape)
    q, k, v = torch.randn(3, 1, NUM_HEADS, WIDTH)
    attention.put(cache[-1], k, v)
    assert attention.attend(q, cache[-1]).isfinite().all()


def test_a_row_full_of_nans_leaves_its_neighbors_alone() -> None:
    cache = torch.zeros(NUM_LAYERS, 2, 3, NUM_HEADS, NUM_SLOTS, WIDTH)
    for row in range(3):
        BagAttention.put_prompt(cache, row, prompt(40) if row != 1 else prompt(90) * torch.nan)
    attention = BagAttention(torch.tensor([40, 90, 40]), cache.shape)
    q, k, v = torch.randn(3, 1, NUM_HEADS, WIDTH).expand(3, 3, -1, -1)
    attention.put(cache[-1], k, v)
    results = attention.attend(q, cache[-1])
    assert results[1].isnan().all()
    assert results[0].isfinite().all()
    assert torch.equal(results[0], results[2])
