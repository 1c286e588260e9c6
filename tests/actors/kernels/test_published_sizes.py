"""Kernels in the sizes of the published models, on the GPU itself: their references' numbers, and bits in any company.

Triton's interpreter tells nothing about layouts, shared memory and how a GPU's units add, and would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from actors.kernels.attention import FP8, PAGE, attend, attend_reference, to_fp8
from actors.kernels.group_norm import add_group_norm, add_group_norm_reference
from actors.kernels.norm import add_norm, add_norm_reference
from actors.kernels.rotary import rotate_and_store, rotate_and_store_reference
from actors.kernels.silu import silu_mul, silu_mul_reference
from actors.llama.packing import _attend_one_by_one, attend_packed, pack
from tests.support.triton import DEVICE, needs_gpu, random, rotary_tables

BFLOAT16 = torch.bfloat16
NUM_HEADS, HEAD_DIM, NUM_POSITIONS = 16, 128, 704
CLOSE = {"rtol": 2e-2, "atol": 2e-2}


@needs_gpu
@pytest.mark.parametrize("cache_dtype", [BFLOAT16, FP8])
@pytest.mark.parametrize("num_kv_heads", [NUM_HEADS, 4])
def test_attention_of_a_decode_step(num_kv_heads: int, cache_dtype: torch.dtype) -> None:
    num_rows, pages_of_row = 40, NUM_POSITIONS // PAGE
    num_pages = num_rows * pages_of_row
    kv, scales = random(2, num_pages, num_kv_heads, PAGE, HEAD_DIM, dtype=BFLOAT16), None
    if cache_dtype == FP8:
        kv, scales = to_fp8(kv)
        scales = scales[..., 0].contiguous()
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(1))
    table = order.view(num_rows, pages_of_row).to(DEVICE, torch.int32)
    position = torch.tensor([-1, 0, 1, 31, 32, 63, 64, NUM_POSITIONS - 1, *range(17, NUM_POSITIONS, 22)], device=DEVICE)
    qkv = random(num_rows, (NUM_HEADS + 2 * num_kv_heads) * HEAD_DIM, seed=2, dtype=BFLOAT16) * 2
    tables = rotary_tables(NUM_POSITIONS, HEAD_DIM)

    def run(function: Callable, rows: list[int]) -> torch.Tensor:
        """With copies of the cache, which the function writes to."""
        cache = [kv.clone(), None if scales is None else scales.clone()]
        return function(qkv[rows], *cache, table[rows], position[rows], *tables)

    everything = list(range(num_rows))
    expected = run(attend, everything)
    torch.testing.assert_close(expected[1:], run(attend_reference, everything)[1:], **CLOSE)
    for rows in ([7], [39, 5], everything[::-1], everything[::3] * 9):
        assert torch.equal(run(attend, rows), expected[rows]), rows


@needs_gpu
def test_attention_of_packed_sequences() -> None:
    """FlashAttention's causal mask is aligned at the last token, and its bits do not depend on the longest sequence."""
    num_earlier, num_new = [0, 17, 577, 30], [40, 577, 3, 577]

    def run(rows: list[int], most_slots: int | None = None) -> tuple[torch.Tensor, ...]:
        lengths = [[values[row] for row in rows] for values in (num_earlier, num_new)]
        packing = pack(*lengths, lengths[0], DEVICE, most_slots=most_slots)
        q = [random(num_new[row], NUM_HEADS, HEAD_DIM, seed=row, dtype=BFLOAT16) for row in rows]
        size = (NUM_HEADS, HEAD_DIM)
        kv = [random(2, num_earlier[row] + num_new[row], *size, seed=9 + row, dtype=BFLOAT16) for row in rows]
        q_THD, kv = torch.cat(q), torch.cat(kv, dim=1)
        together = attend_packed(q_THD, kv, packing)
        torch.testing.assert_close(together, _attend_one_by_one(q_THD, *kv, packing), **CLOSE)
        return together.split(packing.num_tokens)

    expected = run([0, 1, 2, 3])
    for rows, most_slots in (([1], None), ([2, 0], 10_000), ([3, 1, 0, 2], None)):
        for row, found in zip(rows, run(rows, most_slots), strict=True):
            assert torch.equal(found, expected[row])


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize(("num_channels", "side"), [(512, 24), (512, 48), (256, 192), (128, 384)])
def test_group_norm_of_an_image(num_channels: int, side: int, dtype: torch.dtype) -> None:
    x, residual = (
        random(1, num_channels, side, side, seed=seed, dtype=dtype).to(memory_format=torch.channels_last)
        for seed in (0, 1)
    )
    vectors = [random(num_channels, seed=seed, dtype=dtype) for seed in (2, 3, 4)]
    for parts in ((vectors[0], residual), (None, None)):
        arguments = (x, *parts, *vectors[1:], 32, 1e-6, True)
        found = add_group_norm(*arguments)
        for ours, theirs in zip(found, add_group_norm_reference(*arguments), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        assert all(map(torch.equal, found, add_group_norm(*arguments)))


@needs_gpu
@pytest.mark.parametrize("num_rows", [1, 256, 9232])
def test_norms_gates_and_rotations(num_rows: int) -> None:
    x, y, weight = random(num_rows, 2048, dtype=BFLOAT16), random(num_rows, 2048, seed=1, dtype=BFLOAT16), random(2048)
    for ours, theirs in zip(add_norm(x, y, weight, 1e-6), add_norm_reference(x, y, weight, 1e-6), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    gate_up = random(num_rows, 2 * 5632, dtype=BFLOAT16)
    torch.testing.assert_close(silu_mul(gate_up), silu_mul_reference(gate_up), **CLOSE)

    qkv, (cos, sin) = random(num_rows, 3 * 2048, dtype=BFLOAT16), rotary_tables(NUM_POSITIONS, HEAD_DIM)
    position = torch.arange(num_rows, device=DEVICE) % NUM_POSITIONS
    slot = torch.arange(num_rows, device=DEVICE).flip(0)
    ours, theirs = torch.zeros(2, 2, num_rows, NUM_HEADS, HEAD_DIM, dtype=BFLOAT16, device=DEVICE)
    q = rotate_and_store(qkv, ours, position, slot, cos, sin)
    torch.testing.assert_close(q, rotate_and_store_reference(qkv, theirs, position, slot, cos, sin), **CLOSE)
    torch.testing.assert_close(ours, theirs, **CLOSE)
