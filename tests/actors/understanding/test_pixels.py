"""Pictures of any shape become the reference's pixels, to the last bit."""

from __future__ import annotations

import re

import numpy as np
import pytest

from actors.errors import CheckpointError
from actors.understanding.pixels import Square, read_pixel_settings, to_pixels, to_square
from tests.support.looking import goldens, images, pixel_settings, without

PREPROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize("index", range(6))
def test_pixels_are_the_references(index: int) -> None:
    """Three pictures at the model's size, one 50 x 30, one larger, one so narrow that its short side is stretched."""
    assert np.array_equal(to_pixels(images()[index], pixel_settings()), goldens()["pixel_values"][index])


@pytest.mark.parametrize(
    ("height", "width", "first_row", "first_column"),
    [
        (30, 50, (96 - 57) // 2, 0),  # 57.6 is cut to 57
        (9, 200, (96 - 14) // 2, 0),  # 4.32 would be less than the shortest side
        (1, 30000, 41, 0),
        (300, 2, 0, 41),
        (1, 1, 0, 0),
    ],
)
def test_a_picture_is_centered_on_gray(height: int, width: int, first_row: int, first_column: int) -> None:
    pixels = to_pixels(np.full((height, width, 3), 255, np.uint8), pixel_settings())

    gray = np.float32((np.float32(127 / 255) - 0.5) / 0.5)
    is_gray = np.isclose(pixels, gray, atol=1e-6).all(0)
    rows, columns = np.flatnonzero(~is_gray.all(1)), np.flatnonzero(~is_gray.all(0))
    assert (rows[0], columns[0]) == (first_row, first_column)
    assert pixels[0, 48, 48] == 1.0


@pytest.mark.parametrize("index", range(6))
def test_a_picture_on_its_square_has_the_same_pixels(index: int) -> None:
    """So a task can shrink the pictures that an actor reads."""
    square = to_square(images()[index], pixel_settings().square)
    assert np.array_equal(to_pixels(square, pixel_settings()), to_pixels(images()[index], pixel_settings()))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_only_rgb_bytes_are_read(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 3\]"):
        to_pixels(image, pixel_settings())


def test_the_size_of_the_transformers_layout_is_read() -> None:
    settings = read_pixel_settings(PREPROCESSOR | {"size": {"height": 384, "width": 384}}, 384)
    assert settings.square == Square(size=384, min_side=14, ground=(127, 127, 127))
    assert settings.rescale_factor == 1 / 255


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        (PREPROCESSOR | {"image_size": 224}, "disagree on the image size: 224 and 384"),
        (without(PREPROCESSOR, "image_mean"), "must give image_mean as 3 numbers, one per channel; got None"),
        (PREPROCESSOR | {"image_std": [0.5, 0.5]}, "must give image_std as 3 numbers"),
        (PREPROCESSOR | {"image_std": [0.5, 0, 0.5]}, "image_std must be a positive number"),
        (PREPROCESSOR | {"rescale_factor": "1/255"}, "rescale_factor must be a positive number"),
    ],
)
def test_settings_that_give_other_pixels_are_refused(preprocessor: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_pixel_settings(preprocessor, 384)
