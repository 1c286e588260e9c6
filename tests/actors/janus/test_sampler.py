"""Choosing codes: the first beyond a number, in proportion, colder and coldest, and what NaN leaves alone."""

from __future__ import annotations

import pytest
import torch

from actors.janus.sampler import CodeSampler, first_beyond, sample_codes
from actors.noise import uniform_noise
from actors.request import ImageRequest
from tests.support.janus_engine import request


def test_sampling_takes_the_first_code_beyond_the_uniform_number() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().repeat(5, 1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.76, 1 - 2.0**-53], dtype=torch.float64)
    assert sample_codes(logits, uniform, torch.ones(5)).tolist() == [0, 0, 1, 2, 3]


def test_sampled_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    codes = sample_codes(probs.log().repeat(1000, 1), uniform, torch.ones(1000))
    assert torch.bincount(codes, minlength=4).tolist() == [100, 0, 600, 300]


def test_temperature_divides_the_logits_and_0_is_the_most_probable() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]]).repeat(2, 1)
    uniform = torch.tensor([0.05, 0.05], dtype=torch.float64)
    assert sample_codes(logits, uniform, torch.tensor([2.0, 0.0])).tolist() == [0, 2]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_temperature_0_is_argmax_down_to_the_last_bit_and_takes_the_first_of_equals(scale: float) -> None:
    logits = torch.randn(64, 16384, generator=torch.Generator().manual_seed(0)) * scale
    logits[0] = logits[0, 0]
    logits[0, 500] = torch.nextafter(logits[0, 0], torch.tensor(torch.inf))
    logits[1, [7, 9]] = logits.max() + scale
    codes = sample_codes(logits, torch.rand(64, dtype=torch.float64), torch.zeros(64))
    assert codes[:2].tolist() == [500, 7]
    assert codes.tolist() == logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("num_codes", [1, 127, 128, 1000, 16384])
def test_a_search_by_blocks_finds_what_a_search_of_all_sums_finds(num_codes: int) -> None:
    """Whole numbers, most of them 0; half of the uniform numbers fall on the edge between two codes."""
    chance = torch.Generator().manual_seed(num_codes)
    weights = (torch.rand(400, num_codes, generator=chance) ** 40 * 2**40).round()
    weights[weights < 2**30] = 0
    weights[:, -1] += 1
    cdf = weights.cumsum(dim=1, dtype=torch.float64)
    uniform = torch.rand(400, generator=chance, dtype=torch.float64)
    edges = cdf[torch.arange(200), torch.randint(num_codes, (200,), generator=chance)] / cdf[:200, -1]
    uniform[:200] = edges.clamp(max=1 - 2.0**-53)
    uniform[0], uniform[1] = 0.0, 1 - 2.0**-53
    expected = [int((sums <= u * sums[-1]).sum()) for sums, u in zip(cdf, uniform, strict=True)]
    assert first_beyond(weights, uniform).tolist() == expected
    assert len(set(expected)) > min(num_codes, 100) / 2


def loaded(requests: list[ImageRequest], num_codes: int) -> CodeSampler:
    sampler = CodeSampler(len(requests), num_codes, torch.device("cpu"))
    sampler.load(requests)
    return sampler


def test_each_image_takes_its_own_numbers_in_order() -> None:
    requests = [request("a cat", seed=seed, temperature=1.0) for seed in (3, 2**64 - 1)]
    sampler = loaded(requests, 5)
    even = torch.zeros(2, 1000)
    codes = torch.stack([sampler(torch.tensor(step), even) for step in range(5)], dim=1)
    assert codes.tolist() == [[int(u * 1000) for u in uniform_noise(entry.seed, 5)] for entry in requests]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_only_an_image_with_logits_that_are_not_finite_is_marked(value: float) -> None:
    requests = [request("a cat", seed=seed, temperature=1.0) for seed in (0, 1)]
    sampler, expected = (loaded(requests, 3) for _ in range(2))
    for step in range(3):
        logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(step))
        broken = logits.clone()
        broken[1, 40] = value if step == 1 else 0.0
        codes = sampler(torch.tensor(step), broken)
        assert codes[0] == expected(torch.tensor(step), logits)[0]
        assert 0 <= codes[1] < 100  # the loop goes on with some code of the codebook
    assert sampler.is_finite_B.tolist() == [True, False]
