"""Cheap statistics of an image's pixels, stored in its manifest row, so that a query finds blank, washed-out,
over-saturated and duplicate images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from PIL import Image

HASH_SIZE = 8  # the perceptual hash compares neighbors in a grid of 8 rows of 9 gray values

STATISTICS_FIELDS = (
    pa.field("mean_saturation", pa.float32(), nullable=False),
    pa.field("contrast", pa.float32(), nullable=False),
    pa.field("clipped_fraction", pa.float32(), nullable=False),
    pa.field("entropy", pa.float32(), nullable=False),
    pa.field("perceptual_hash", pa.string(), nullable=False),
)


def picture_statistics(pixels: np.ndarray) -> dict[str, float | str]:
    """Statistics of uint8 pixels [height, width, 3].

    `mean_saturation`: mean of (max - min) / max over the channels, 0 (gray) to 1; black counts as 0.
    `contrast`: standard deviation of the luma (ITU-R BT.601) over 255, 0 (flat) to 0.5.
    `clipped_fraction`: share of the channel values that are 0 or 255.
    `entropy`: bits of the luma histogram, 0 (blank) to 8.
    `perceptual_hash`: 64 bits as hex, the difference hash: a bit is 1 if a cell is brighter than its right neighbor.
    """
    image = Image.fromarray(pixels)
    luma = image.convert("L")
    shares_of_luma = np.array(luma.histogram()) / (luma.width * luma.height)
    shares_of_values = np.array(image.histogram()).reshape(3, 256).sum(axis=0) / pixels.size
    saturation = np.array(image.convert("HSV").getchannel("S").histogram())
    return {
        "mean_saturation": float(saturation @ np.arange(256) / saturation.sum() / 255),
        "contrast": _standard_deviation(shares_of_luma) / 255,
        "clipped_fraction": float(shares_of_values[0] + shares_of_values[255]),
        "entropy": _entropy(shares_of_luma),
        "perceptual_hash": _difference_hash(luma),
    }


def _standard_deviation(shares: np.ndarray) -> float:
    """The standard deviation of values 0 to 255 with these shares."""
    values = np.arange(256)
    return float(np.sqrt(shares @ (values - shares @ values) ** 2))


def _entropy(shares: np.ndarray) -> float:
    """The entropy of values with these shares, in bits."""
    shares = shares[shares > 0]
    return float(max(0.0, -np.sum(shares * np.log2(shares))))


def _difference_hash(luma: Image.Image) -> str:
    gray = np.asarray(luma.resize((HASH_SIZE + 1, HASH_SIZE), Image.Resampling.BOX)).astype(np.int16)
    return np.packbits(gray[:, :-1] > gray[:, 1:]).tobytes().hex()
