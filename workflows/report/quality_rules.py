"""Quality rules: rules of thumb that find the images to look at first. They do not measure quality.

Each rule reads statistics from the manifest, so a query can find the same images. `near_duplicates` is different: it
compares the hashes of a whole job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Columns = Mapping[str, np.ndarray]  # statistic -> float32 [num_images]

BLANK_CONTRAST = 0.02  # a standard deviation of 5 of 255 gray levels
FADED_CONTRAST, FADED_SATURATION = 0.12, 0.15
HIGH_SATURATION = 0.75
HIGH_CLIPPED_FRACTION = 0.3
MIN_HASH_BITS = 8  # a hash of nearly all zeros or all ones means "plain", not "similar"


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRule:
    """`matches` maps the statistics to bool [num_images]; `severity` to float32 [num_images], highest for the clearest
    case."""

    name: str
    condition: str
    matches: Callable[[Columns], np.ndarray]
    severity: Callable[[Columns], np.ndarray]


QUALITY_RULES = (
    QualityRule(
        name="blank",
        condition=f"contrast < {BLANK_CONTRAST}",
        matches=lambda c: c["contrast"] < BLANK_CONTRAST,
        severity=lambda c: -c["contrast"],
    ),
    QualityRule(
        name="washed-out",
        condition=f"mean_saturation < {FADED_SATURATION} and {BLANK_CONTRAST} <= contrast < {FADED_CONTRAST}",
        matches=lambda c: (
            (c["mean_saturation"] < FADED_SATURATION)
            & (c["contrast"] >= BLANK_CONTRAST)
            & (c["contrast"] < FADED_CONTRAST)
        ),
        severity=lambda c: -c["contrast"] - c["mean_saturation"],
    ),
    QualityRule(
        name="over-saturated",
        condition=f"mean_saturation > {HIGH_SATURATION}",
        matches=lambda c: c["mean_saturation"] > HIGH_SATURATION,
        severity=lambda c: c["mean_saturation"],
    ),
    QualityRule(
        name="clipped",
        condition=f"clipped_fraction > {HIGH_CLIPPED_FRACTION}",
        matches=lambda c: c["clipped_fraction"] > HIGH_CLIPPED_FRACTION,
        severity=lambda c: c["clipped_fraction"],
    ),
)

NEAR_DUPLICATE = "near-duplicate"
NEAR_DUPLICATE_CONDITION = (
    f"same perceptual_hash as an image with another prompt or seed; hashes with fewer than {MIN_HASH_BITS} zeros or "
    "ones are ignored"
)
RULE_NAMES = (*(rule.name for rule in QUALITY_RULES), NEAR_DUPLICATE)


def hash_values(hashes: list[str]) -> np.ndarray:
    """Perceptual hashes (16 hex digits each) as uint64 [num_images]."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)


def near_duplicates(hashes: np.ndarray) -> np.ndarray:
    """The hashes that occur more than once in uint64 [num], sorted and without plain ones."""
    values, counts = np.unique(hashes, return_counts=True)
    num_ones = np.bitwise_count(values)
    found: np.ndarray = values[(counts > 1) & (num_ones >= MIN_HASH_BITS) & (num_ones <= 64 - MIN_HASH_BITS)]
    return found
