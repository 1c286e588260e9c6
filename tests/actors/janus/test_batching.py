"""Batches as large as memory holds, and on a GPU of one size for all rows whose prompts need the same room."""

from __future__ import annotations

import pytest

from actors.janus.batching import bytes_per_row, images_on_cpu, prompt_room, rows_on_gpu
from tests.support.janus_engine import engine
from tests.support.random_llama import llama_shape

GIB = 2**30
# Keys and values of Janus-Pro-1B: 24 layers, 16 heads of 128 channels.
PRO_1B = llama_shape(num_layers=24, num_heads=16, num_kv_heads=16, head_dim=128)


def test_a_rows_cache_is_counted_in_whole_segments() -> None:
    assert bytes_per_row(PRO_1B, 704, 2) == 704 * 2 * 24 * 16 * 128 * 2 == bytes_per_row(PRO_1B, 641, 2)


@pytest.mark.parametrize(("num_tokens", "room"), [(3, 128), (128, 128), (129, 256), (1000, 1024)])
def test_the_room_for_a_prompt_is_a_function_of_its_length(num_tokens: int, room: int) -> None:
    assert prompt_room(num_tokens) == room


@pytest.mark.parametrize(("gib", "num_rows"), [(138, 256), (77, 256), (22, 64), (10, 32), (1, 4), (0.01, 2)])
def test_a_gpu_takes_the_most_rows_whose_cache_fits_beside_the_weights(gib: float, num_rows: int) -> None:
    assert rows_on_gpu(bytes_per_row(PRO_1B, 704, 2), int(gib * GIB)) == num_rows


@pytest.mark.parametrize(("gib", "num_images"), [(256, 16), (48, 8), (24, 4), (1, 1)])
def test_a_cpu_takes_the_most_images_whose_cache_is_an_eighth_of_its_memory(gib: int, num_images: int) -> None:
    assert images_on_cpu(bytes_per_row(PRO_1B, 704, 4), gib * GIB) == num_images


def test_without_fixed_rows_a_call_is_one_batch() -> None:
    loops = engine().loops
    loops.rows_of_room = None
    assert loops.split([3, 200, 5], [2, 1, 2]) == [[0, 1, 2]]
    assert loops.split([], []) == []


def test_with_fixed_rows_images_of_one_room_fill_them_in_order() -> None:
    loops = engine().loops
    loops.rows_of_room = lambda room: {128: 4, 256: 2}[room]
    assert loops.split([9, 9, 200, 9, 9, 200], [2, 1, 2, 2, 1, 2]) == [[0, 1], [3, 4], [2], [5]]
