"""The quality rules: each matches the image it is named after, and none matches an ordinary image."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.output.picture_statistics import picture_statistics
from workflows.report.quality_rules import QUALITY_RULES, hash_values, near_duplicates
from workflows.report.survey import STATISTICS

NOISE = np.random.default_rng(0).normal(128, 50, (64, 64, 1)) + np.array([20, 0, -20])
ORDINARY = NOISE.clip(1, 254).astype(np.uint8)  # gray noise with a warm tint
IMAGES = {
    "blank": np.full((64, 64, 3), 127, np.uint8),
    "washed-out": (ORDINARY * 0.2 + 180).astype(np.uint8),
    "over-saturated": ORDINARY * np.array([1, 0, 0], np.uint8) + np.array([0, 1, 1], np.uint8),
    "clipped": np.where(ORDINARY > 128, 255, 1).astype(np.uint8),
}


def rules_of(pixels: np.ndarray) -> list[str]:
    statistics = picture_statistics(pixels)
    columns = {name: np.array([statistics[name]], np.float32) for name in STATISTICS}
    return [rule.name for rule in QUALITY_RULES if rule.matches(columns)[0]]


@pytest.mark.parametrize("name", IMAGES)
def test_a_rule_matches_the_image_it_is_named_after(name: str) -> None:
    assert rules_of(IMAGES[name]) == [name]


def test_no_rule_matches_an_ordinary_image() -> None:
    assert rules_of(ORDINARY) == []


def test_the_clearest_case_has_the_highest_severity() -> None:
    columns = {name: np.array([0.1, 0.9, 0.5], np.float32) for name in STATISTICS}
    clearest = {rule.name: int(np.argmax(rule.severity(columns))) for rule in QUALITY_RULES}
    assert clearest == {"blank": 0, "washed-out": 0, "over-saturated": 1, "clipped": 1}


def test_hashes_that_occur_twice_are_near_duplicates_unless_they_are_plain() -> None:
    textured, plain, bright, single = 0x0F0F0F0F0F0F0F0F, 0x7F, 2**64 - 1, 0x00FF00FF00FF00FF
    hashes = [f"{value:016x}" for value in (textured, plain, bright, single, textured, plain, bright)]
    assert near_duplicates(hash_values(hashes)).tolist() == [textured]
