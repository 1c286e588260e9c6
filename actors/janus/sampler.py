"""From guided logits to the images' next codes: inverse CDF, each image with its own uniform numbers and temperature.

B images, V codebook entries, in N blocks of K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from actors.device import send
from actors.noise import uniform_noise
from actors.request import ImageRequest

BLOCK = 128  # entries


class CodeSampler:
    """Chooses codes by inverse CDF with each image's own uniform numbers; temperature 0 takes the most probable.

    It never waits for the device: `is_finite_B` records which images have finite logits. The tensors keep their
    addresses from batch to batch; entries beyond the loaded images are unused.
    """

    def __init__(self, num_images: int, num_codes: int, device: torch.device) -> None:
        self.uniform_BN = torch.zeros(num_images, num_codes, dtype=torch.float64, device=device)
        self.temperature_B = torch.ones(num_images, device=device)
        self.is_finite_B = torch.ones(num_images, dtype=torch.bool, device=device)

    def load(self, requests: Sequence[ImageRequest]) -> None:
        """Start a batch of these images."""
        noise = np.stack([uniform_noise(request.seed, self.uniform_BN.shape[1]) for request in requests])
        temperatures = torch.tensor([request.temperature for request in requests])
        self.uniform_BN[: len(requests)] = send(torch.from_numpy(noise), self.uniform_BN.device)
        self.temperature_B[: len(requests)] = send(temperatures, self.uniform_BN.device)
        self.is_finite_B.fill_(True)

    def __call__(self, step: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        self.is_finite_B &= logits_BV.sum(dim=1).isfinite()
        uniform_B = self.uniform_BN.index_select(1, step.view(1)).squeeze(1)
        return sample_codes(logits_BV, uniform_B, self.temperature_B)


def sample_codes(logits_BV: torch.Tensor, uniform_B: torch.Tensor, temperature_B: torch.Tensor) -> torch.Tensor:
    """The first code whose cumulative probability exceeds the uniform number; the most probable at temperature 0.

    `uniform_B` is float64 in [0, 1). The sum runs in float64 over the float32 probabilities, and the number is scaled
    by its end, which rounding keeps a little from 1. Returns int64 [B].
    """
    is_greedy_B = temperature_B == 0
    # So cold that every other code's probability is exactly 0, and a power of two, which merges no two logits.
    divisor_B = torch.where(is_greedy_B, 2.0**-64, temperature_B)
    probs_BV = torch.softmax(logits_BV / divisor_B[:, None], dim=-1)
    uniform_B = torch.where(is_greedy_B, 0.0, uniform_B)
    if probs_BV.device.type != "cpu":
        # Whole numbers, whose sums are exact: a GPU adds in an order that depends on the number of images.
        return first_beyond((probs_BV * 2.0**40).round(), uniform_B)
    cdf_BV = probs_BV.cumsum(dim=-1, dtype=torch.float64)
    return _search(cdf_BV, uniform_B * cdf_BV[:, -1])


def first_beyond(weights_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """What a search of all the cumulative sums finds, for whole numbers: a block first, then one of its numbers.

    A GPU adds up a row of a whole vocabulary with few of its threads.
    """
    num_missing = -weights_BV.shape[1] % BLOCK
    padded_BV = F.pad(weights_BV, (0, num_missing)) if num_missing else weights_BV  # F.pad copies even if it adds none
    blocks_BNK = padded_BV.unflatten(1, (-1, BLOCK))
    sums_BN = blocks_BNK.sum(dim=-1, dtype=torch.float64)
    cdf_BN = sums_BN.cumsum(dim=-1)
    threshold_B = uniform_B * cdf_BN[:, -1]
    block_B1 = _search(cdf_BN, threshold_B)[:, None]
    before_B1 = cdf_BN.gather(1, block_B1) - sums_BN.gather(1, block_B1)
    block_BK = blocks_BNK.gather(1, block_B1[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    code_B = _search(before_B1 + block_BK.cumsum(dim=-1, dtype=torch.float64), threshold_B)
    return (block_B1[:, 0] * BLOCK + code_B).clamp(max=weights_BV.shape[1] - 1)


def _search(cdf_BV: torch.Tensor, threshold_B: torch.Tensor) -> torch.Tensor:
    """The first index whose sum exceeds the threshold, [B]; the last one where none does."""
    return torch.searchsorted(cdf_BV, threshold_B[:, None], right=True)[:, 0].clamp(max=cdf_BV.shape[1] - 1)
