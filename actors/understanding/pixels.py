"""From a picture of any size to the pixels that the vision tower reads, as the reference implementation makes them.

The longer side becomes the model's, the shorter one is cut (not rounded) to whole pixels, and the picture is centered
on a gray square. transformers' image processor rounds, so it gives other pixels for pictures that are not square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from actors.checkpoint.files import read_json
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError, shown
from actors.llama.config import integer, number, section
from actors.understanding.config import MIN_SIDE, read_vision_shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Square:
    """Pixels per side, the least of a picture's shorter side in it, and the color around the picture."""

    size: int
    min_side: int
    ground: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelSettings:
    """The square that a picture is put on, and the normalization of its channels."""

    square: Square
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_pixel_settings(preprocessor: Mapping[str, Any], image_size: int) -> PixelSettings:
    """The settings in a preprocessor_config.json, for a tower of `image_size`. Raises CheckpointError."""
    name = "preprocessor_config.json"
    height = section(preprocessor, "size", name, default={}).get("height")  # transformers layout
    stored_size = integer(preprocessor, "image_size", height or image_size, name)
    if stored_size != image_size:
        raise CheckpointError(f"{name} and config.json disagree on the image size: {stored_size} and {image_size}")
    mean = _per_channel(preprocessor, "image_mean", name)
    red, green, blue = (int(value * 255) for value in mean)
    return PixelSettings(
        square=Square(
            size=image_size,
            min_side=integer(preprocessor, "min_size", MIN_SIDE, name, largest=image_size),
            ground=(red, green, blue),
        ),
        rescale_factor=number(preprocessor, "rescale_factor", 1 / 255, name),
        mean=mean,
        std=_per_channel(preprocessor, "image_std", name),
    )


def square_of(checkpoint: Checkpoint) -> Square:
    """The square that an opened checkpoint looks at. Raises CheckpointError if it cannot look."""
    if checkpoint.folder is None:
        return Square(size=checkpoint.image_size, min_side=MIN_SIDE, ground=(127, 127, 127))
    image_size = read_vision_shape(checkpoint.config).image_size
    return read_pixel_settings(read_json(checkpoint.folder, "preprocessor_config.json"), image_size).square


def to_pixels(image: np.ndarray, settings: PixelSettings) -> np.ndarray:
    """An RGB image, uint8 [height, width, 3], to float32 [3, S, S]. Raises ValueError for any other array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must be uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
    scaled = (to_square(image, settings.square).astype(np.float64) * settings.rescale_factor).astype(np.float32)
    normalized = (scaled - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(normalized.transpose(2, 0, 1))


def to_square(image: np.ndarray, square: Square) -> np.ndarray:
    """An RGB image, uint8 [height, width, 3], on its square, uint8 [S, S, 3]. A square of this size stays as it is."""
    size, picture = square.size, Image.fromarray(image)
    longer = max(picture.size)
    width, height = (max(int(side / longer * size), square.min_side) for side in picture.size)
    ground = Image.new("RGB", (size, size), square.ground)
    ground.paste(picture.resize((width, height), Image.Resampling.BICUBIC), ((size - width) // 2, (size - height) // 2))
    return np.asarray(ground)


def _per_channel(preprocessor: Mapping[str, Any], key: str, name: str) -> tuple[float, float, float]:
    """Required: the reference's defaults are those of another model (CLIP's)."""
    values = preprocessor.get(key)
    if not isinstance(values, list) or len(values) != 3:
        raise CheckpointError(f"{name} must give {key} as 3 numbers, one per channel; got {shown(values)}")
    red, green, blue = (number({key: value}, key, 0, name) for value in values)
    return red, green, blue
