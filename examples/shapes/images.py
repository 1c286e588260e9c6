"""Training images as tensors, the reconstruction loss, and the judge's verdict on decoded images."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from examples.shapes.judge import faults
from examples.shapes.schedule import device
from examples.shapes.world import Scene, draw, training_scenes


def image_batches(seed: int, batch: int, image_size: int) -> Iterator[torch.Tensor]:
    """Endless batches of training images, float [B, 3, H, W] in [-1, 1]."""
    rng = random.Random(f"pictures {seed}")
    scenes = training_scenes(seed)
    while True:
        yield draw_batch(itertools.islice(scenes, batch), rng, image_size)


def busy_crops(pixels_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """One square of `size` pixels per image, at a multiple of 8 pixels: of four random squares, the most varied."""
    return torch.stack([max((_random_crop(pixels, size) for _ in range(4)), key=torch.std) for pixels in pixels_BCHW])


def _random_crop(pixels_CHW: torch.Tensor, size: int) -> torch.Tensor:
    y, x = (torch.randint(0, (pixels_CHW.shape[-1] - size) // 8 + 1, (2,)) * 8).tolist()
    return pixels_CHW[:, y : y + size, x : x + size]


def draw_batch(scenes: Iterable[Scene], rng: random.Random, image_size: int) -> torch.Tensor:
    """Drawings of complete scenes, float [B, 3, H, W] in [-1, 1]."""
    return to_floats([np.asarray(draw(scene, rng, image_size)) for scene in scenes])


def to_floats(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Images uint8 [H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded_BCHW: torch.Tensor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Mean absolute error. Pixels within two pixels of an edge weigh 6 times as much: most of an image is flat."""
    highest = F.max_pool2d(pixels_BCHW, 5, stride=1, padding=2)
    lowest = -F.max_pool2d(-pixels_BCHW, 5, stride=1, padding=2)
    weights = 1 + 5 * ((highest - lowest).amax(dim=1, keepdim=True) > 0.1)
    return (weights * (decoded_BCHW.float() - pixels_BCHW).abs()).mean()


def to_uint8(decoded_BCHW: torch.Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3]; truncates, as the engines do."""
    return ((decoded_BCHW.float().clamp(-1, 1) + 1) / 2 * 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def share_right(decoded_BCHW: torch.Tensor, scenes: list[Scene]) -> float:
    """The share of images in which the judge finds no fault."""
    verdicts = [not faults(pixels, scene) for pixels, scene in zip(to_uint8(decoded_BCHW), scenes, strict=True)]
    return sum(verdicts) / len(verdicts)
