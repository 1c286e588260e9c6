"""The seed rule and the noise: literal numbers, and the same from an implementation written down here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.noise import derive_seed, normal_noise, uniform_noise

MASK = 2**64 - 1


# printf 'janus-batch seed 1\0ROW_SEED\0IMAGE_INDEX\0PROMPT_ID' | sha256sum; the first 8 bytes, little-endian
@pytest.mark.parametrize(
    ("row_seed", "prompt_id", "image_index", "seed"),
    [
        (0, "apple", 0, 8587172732758236984),
        (0, "apple", 1, 10725807821406489425),
        (7, "apple", 0, 13678765753517355735),
        (2**64 - 1, "prompts-000000002", 3, 15674796816071631592),
        (0, "été", 0, 17412704032075553882),
    ],
)
def test_a_seed_follows_the_rule(row_seed: int, prompt_id: str, image_index: int, seed: int) -> None:
    assert derive_seed(row_seed, prompt_id, image_index) == seed


def test_the_parts_of_a_seed_do_not_run_into_each_other() -> None:
    seeds = [derive_seed(1, "2", 3), derive_seed(1, "3", 2), derive_seed(12, "", 3), derive_seed(1, "", 23)]

    assert len(set(seeds)) == 4


# Philox4x64-10 of Salmon et al. 2011, key = seed, counter from 1: computed by `philox` below and by numpy alike.
@pytest.mark.parametrize(
    ("seed", "numbers"),
    [
        (0, [0.011546754286331562, 0.24154919656271812, 0.11142585551493822, 0.5644146216071337, 0.5023796042735054]),
        (1, [0.3035680343067586, 0.8487087496857769, 0.1561347780434731, 0.031106436954376093, 0.9002684531124185]),
        (MASK, [0.23494158814525556, 0.7173107484541781, 0.41117733204481477, 0.7161435204444477, 0.3501621337115973]),
    ],
)
def test_uniform_numbers_are_pinned(seed: int, numbers: list[float]) -> None:
    assert uniform_noise(seed, 5).tolist() == numbers


@pytest.mark.parametrize("seed", [2, 12345678901234567890])
def test_uniform_numbers_are_the_upper_53_bits_of_philox(seed: int) -> None:
    noise = uniform_noise(seed, 576)

    assert noise.dtype == np.float64
    assert noise.tolist() == [(bits >> 11) / 2**53 for bits in philox(seed, 576)]


def philox(key: int, num: int) -> list[int]:
    """The first `num` 64-bit outputs."""
    outputs: list[int] = []
    for counter in range(1, num // 4 + 2):
        c, k0, k1 = [counter, 0, 0, 0], key, 0
        for _ in range(10):
            p, q = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(q >> 64) ^ c[1] ^ k0, q & MASK, (p >> 64) ^ c[3] ^ k1, p & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        outputs += c
    return outputs[:num]


def test_a_shorter_draw_is_a_prefix_of_a_longer_one() -> None:
    assert uniform_noise(5, 100).tolist() == uniform_noise(5, 576)[:100].tolist()


def test_uniform_numbers_are_uniform() -> None:
    noise = np.sort(np.concatenate([uniform_noise(seed, 576) for seed in range(100)]))
    distance = np.abs(noise - (np.arange(noise.size) + 0.5) / noise.size).max()

    assert noise[0] >= 0
    assert noise[-1] < 1
    assert distance < 1.95 / math.sqrt(noise.size)  # Kolmogorov-Smirnov at 0.1 %


def test_normal_numbers_are_pinned() -> None:
    noise = normal_noise(7, (2, 2))

    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, np.array([[-0.293339, 1.7038306], [1.5391918, 0.63675386]], np.float32))


def test_normal_numbers_are_normal_and_of_the_shape_asked_for() -> None:
    noise = np.stack([normal_noise(seed, (4, 48, 48)) for seed in range(10)])

    assert noise.shape == (10, 4, 48, 48)
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * noise.size)
    assert abs((np.abs(noise) < 1.959964).mean() - 0.95) < 0.005


def test_neighboring_seeds_have_independent_streams() -> None:
    flat = [normal_noise(seed, (9216,)) for seed in range(5)]

    correlations = np.corrcoef(flat)[np.triu_indices(5, 1)]

    assert np.abs(correlations).max() < 5 / math.sqrt(9216)
