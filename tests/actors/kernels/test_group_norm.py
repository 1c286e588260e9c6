"""Group norm and SiLU of an image decoder, with the sum in front of them."""

from __future__ import annotations

import pytest
import torch

from actors.kernels import group_norm
from actors.kernels.group_norm import add_group_norm, add_group_norm_reference
from tests.support.triton import needs_triton, random

EPS = 1e-6


def channels_last(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return random(*size, seed=seed, dtype=dtype).to(memory_format=torch.channels_last)


def scale_and_shift(num_channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random(num_channels, seed=7), random(num_channels, seed=8)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_channels", "num_groups", "size"), [(64, 32, (6, 6)), (24, 8, (5, 3)), (64, 16, (1, 1))])
def test_sum_and_norm_are_the_references(
    num_channels: int, num_groups: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    x, residual = (channels_last(2, num_channels, *size, seed=seed, dtype=dtype) for seed in range(2))
    bias, norm = random(num_channels, seed=3, dtype=dtype), scale_and_shift(num_channels)
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1.6e-2}
    for parts in ((None, None), (bias, None), (None, residual), (bias, residual)):
        for has_silu in (False, True):
            got = add_group_norm(x, *parts, *norm, num_groups, EPS, has_silu)
            expected = add_group_norm_reference(x, *parts, *norm, num_groups, EPS, has_silu)
            assert got[1].is_contiguous(memory_format=torch.channels_last)
            for ours, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(ours, theirs, **tolerance)


@needs_triton
def test_a_large_mean_does_not_cancel_the_variance() -> None:
    x = 1000 + channels_last(1, 64, 12, 12)
    norm = scale_and_shift(64)
    _, got = add_group_norm(x, None, None, *norm, 32, EPS, False)
    expected = torch.nn.functional.group_norm(x.double(), 32, *(part.double() for part in norm), EPS)
    torch.testing.assert_close(got.double(), expected, atol=2e-3, rtol=0)


@needs_triton
def test_an_image_of_many_parts_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many parts as allowed, each of several tiles, the last of them not full."""
    monkeypatch.setattr(group_norm, "_MAX_PARTS", 3)
    monkeypatch.setattr(group_norm, "_TILE", 128)
    x, norm = channels_last(1, 32, 7, 5), scale_and_shift(32)
    got = add_group_norm(x, None, None, *norm, 32, EPS, True)[1]
    torch.testing.assert_close(got, add_group_norm_reference(x, None, None, *norm, 32, EPS, True)[1])


@needs_triton
def test_an_images_bits_do_not_depend_on_its_neighbors() -> None:
    x, bias, norm = channels_last(3, 64, 6, 5), random(64, seed=1), scale_and_shift(64)
    expected = add_group_norm(x, bias, x, *norm, 32, EPS, True)[1]
    x[1] = torch.nan
    together = add_group_norm(x, bias, x, *norm, 32, EPS, True)[1]
    for image in (0, 2):
        alone = x[image : image + 1]
        assert torch.equal(together[image], expected[image])
        assert torch.equal(add_group_norm(alone, bias, alone, *norm, 32, EPS, True)[1][0], expected[image])
