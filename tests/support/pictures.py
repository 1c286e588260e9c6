"""Image files of every kind for the tests of jobs that look at images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int = 40, height: int = 30, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, file_format: str = "PNG", *, mode: str = "RGB", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def animation(num_frames: int, file_format: str = "GIF") -> bytes:
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(num_frames)]
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A small PNG that says that it is huge."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()
