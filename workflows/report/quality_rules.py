"""Which pictures to look at first: rules of thumb over the statistics in the manifest. They are no measure of quality.

A rule reads columns of the manifest, so the same pictures can be found by a query. Whether two pictures are alike is
not a property of one row; `lookalikes` needs the hashes of the whole job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Columns = Mapping[str, np.ndarray]  # a float32 array per statistic, one entry per image

BLANK_CONTRAST = 0.02  # a standard deviation of 5 of 255 grey levels
FADED_CONTRAST, FADED_SATURATION = 0.12, 0.15
HIGH_SATURATION = 0.75
HIGH_CLIPPED_FRACTION = 0.3
MIN_HASH_BITS = 8  # a hash of nearly all zeros or all ones says "plain", not "alike"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A rule: `holds` says of which images it is true, `severity` orders them, the strongest case the highest."""

    name: str
    rule: str
    holds: Callable[[Columns], np.ndarray]
    severity: Callable[[Columns], np.ndarray]


FLAGS = (
    Flag(
        name="blank",
        rule=f"contrast < {BLANK_CONTRAST}",
        holds=lambda c: c["contrast"] < BLANK_CONTRAST,
        severity=lambda c: -c["contrast"],
    ),
    Flag(
        name="washed-out",
        rule=f"mean_saturation < {FADED_SATURATION} and contrast from {BLANK_CONTRAST} to {FADED_CONTRAST}",
        holds=lambda c: (
            (c["mean_saturation"] < FADED_SATURATION)
            & (c["contrast"] >= BLANK_CONTRAST)
            & (c["contrast"] < FADED_CONTRAST)
        ),
        severity=lambda c: -c["contrast"] - c["mean_saturation"],
    ),
    Flag(
        name="over-saturated",
        rule=f"mean_saturation > {HIGH_SATURATION}",
        holds=lambda c: c["mean_saturation"] > HIGH_SATURATION,
        severity=lambda c: c["mean_saturation"],
    ),
    Flag(
        name="clipped",
        rule=f"clipped_fraction > {HIGH_CLIPPED_FRACTION}",
        holds=lambda c: c["clipped_fraction"] > HIGH_CLIPPED_FRACTION,
        severity=lambda c: c["clipped_fraction"],
    ),
)

LOOKALIKE = "near-duplicate"
LOOKALIKE_RULE = (
    f"the same perceptual_hash as an image of another prompt or seed; hashes with fewer than {MIN_HASH_BITS} "
    "zeros or ones are left out"
)
FLAG_NAMES = (*(flag.name for flag in FLAGS), LOOKALIKE)


def hash_values(hashes: list[str]) -> np.ndarray:
    """Perceptual hashes (16 hex digits each) as uint64 [num_images]."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)


def lookalikes(hashes: np.ndarray) -> np.ndarray:
    """The hashes that stand more than once in uint64 [num], sorted; plain ones left out."""
    values, counts = np.unique(hashes, return_counts=True)
    num_ones = np.bitwise_count(values)
    found: np.ndarray = values[(counts > 1) & (num_ones >= MIN_HASH_BITS) & (num_ones <= 64 - MIN_HASH_BITS)]
    return found
