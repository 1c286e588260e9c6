"""Batches as large as memory holds; on a GPU, rows of any lengths share them."""

from __future__ import annotations

import pytest
import torch

from actors.errors import DeviceFullError
from actors.janus.batching import TYPICAL_PROMPT, CpuLoops, GpuLoops, bytes_per_page, bytes_per_row, images_on_cpu
from actors.janus.network import CodeModel
from actors.kernels.attention import FP8, PAGE
from actors.llama.cache import PromptState, pages_of
from actors.llama.linear import Mlp
from actors.llama.packed import PackedLlama
from tests.support.random_llama import llama_shape, random_weights

NUM_CODES = 9
SHAPE = llama_shape()
PAGE_BYTES = bytes_per_page(SHAPE, torch.float32)
PAGES_OF_ROW = pages_of(TYPICAL_PROMPT + NUM_CODES)
GIB = 2**30
# Keys and values of Janus-Pro-1B: 24 layers, 16 heads of 128 channels.
PRO_1B = llama_shape(num_layers=24, num_heads=16, num_kv_heads=16, head_dim=128)


def loops(num_pages: int, **shape) -> GpuLoops:
    """Loops of a small model on a GPU with memory for this many pages."""
    llama = PackedLlama(random_weights(llama_shape(**shape)), llama_shape(**shape))
    head = Mlp(
        {
            f"{name}.{part}": torch.zeros(64, 64)[:, 0] if part == "bias" else torch.zeros(64, 64)
            for name in ("a", "b")
            for part in ("weight", "bias")
        },
        "a",
        "b",
    )
    model = CodeModel(llama=llama, head=head, code_embedding_VC=torch.zeros(64, 64))
    return GpuLoops(model, NUM_CODES, num_pages * PAGE_BYTES)


def state(num_tokens: int) -> PromptState:
    return PromptState(hidden_C=torch.zeros(64), kv=torch.zeros(2, 2, 4, num_tokens, 16))


def test_keys_and_values_of_a_row_are_counted_over_layers_heads_and_channels() -> None:
    assert bytes_per_row(PRO_1B, 704, 2) == 704 * 2 * 24 * 16 * 128 * 2


@pytest.mark.parametrize(("gib", "num_images"), [(256, 16), (48, 8), (24, 4), (1, 1)])
def test_a_cpu_takes_the_most_images_whose_cache_is_an_eighth_of_its_memory(gib: int, num_images: int) -> None:
    assert images_on_cpu(bytes_per_row(PRO_1B, 704, 4), gib * GIB) == num_images


def test_on_a_cpu_a_call_is_one_batch() -> None:
    cpu_loops = CpuLoops(loops(64).model, NUM_CODES)
    assert cpu_loops.split([[3, 3], [200], [5, 5]]) == [[0, 1, 2]]
    assert cpu_loops.split([]) == []


def test_on_a_gpu_images_fill_the_rows_and_the_pages_in_order() -> None:
    gpu_loops = loops(5 * PAGES_OF_ROW + 1)
    assert gpu_loops.max_rows == 5
    assert gpu_loops.split([[9, 9], [9], [300, 9], [9, 9], [9], [9]]) == [[0, 1, 2], [3, 4, 5]]
    few = [[length] for length in (500, 500, 9, 9)]  # 8 pages each, then 1
    assert loops(16).split(few) == [[0, 1], [2, 3]]
    assert gpu_loops.split([]) == []


def test_a_page_in_fp8_has_a_quarter_of_float32s_bytes_and_its_factors() -> None:
    assert bytes_per_page(PRO_1B, FP8) * 4 == bytes_per_page(PRO_1B, torch.float32) * (1 + 4 / 128)


def test_any_number_of_rows_up_to_the_memorys_fits_a_gpu() -> None:
    assert loops(7 * PAGES_OF_ROW).max_rows == 7
    assert loops(1000 * PAGES_OF_ROW).max_rows == 384


def test_a_loop_of_each_size_is_kept_for_prompts_of_any_length() -> None:
    gpu_loops = loops(100 * PAGES_OF_ROW)
    short, long = [state(3)] * 20, [state(300), *[state(9)] * 30]
    assert gpu_loops.loop_for(10, short) is gpu_loops.loop_for(16, long)
    assert gpu_loops.loop_for(10, [*short, *short]) is not gpu_loops.loop_for(10, short)
    assert gpu_loops.loop_for(10, short).cache.num_rows == 32
    full = gpu_loops.loop_for(50, [state(3)] * 100)
    assert (len(full.code_B), full.cache.num_rows) == (50, 100)


def test_the_longest_prompt_is_what_two_rows_have_pages_for() -> None:
    assert loops(1000).longest_prompt == SHAPE.context_length - NUM_CODES
    assert loops(2 * PAGES_OF_ROW).longest_prompt == PAGES_OF_ROW * PAGE - NUM_CODES


def test_kept_prompts_take_a_small_share_of_a_gpus_memory() -> None:
    assert loops(7 * PAGES_OF_ROW).num_kept_tokens * 32 == 7 * PAGES_OF_ROW * PAGE


def test_a_gpu_without_memory_for_one_image_is_refused() -> None:
    with pytest.raises(DeviceFullError, match=r"one image need 0\.0 GB of GPU memory; 0\.0 GB are free"):
        loops(2 * PAGES_OF_ROW - 1)
