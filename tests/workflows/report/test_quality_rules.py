"""The rules of thumb: each finds the picture it is named after and leaves an ordinary one alone."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.output.picture_statistics import picture_statistics
from workflows.report.quality_rules import FLAGS, hash_values, lookalikes
from workflows.report.survey import STATISTICS

NOISE = np.random.default_rng(0).normal(128, 50, (64, 64, 1)) + np.array([20, 0, -20])
ORDINARY = NOISE.clip(1, 254).astype(np.uint8)  # grey noise with a warm tint
PICTURES = {
    "blank": np.full((64, 64, 3), 127, np.uint8),
    "washed-out": (ORDINARY * 0.2 + 180).astype(np.uint8),
    "over-saturated": ORDINARY * np.array([1, 0, 0], np.uint8) + np.array([0, 1, 1], np.uint8),
    "clipped": np.where(ORDINARY > 128, 255, 1).astype(np.uint8),
}


def flags_of(pixels: np.ndarray) -> list[str]:
    statistics = picture_statistics(pixels)
    columns = {name: np.array([statistics[name]], np.float32) for name in STATISTICS}
    return [flag.name for flag in FLAGS if flag.holds(columns)[0]]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_gets_the_flag_it_is_made_for(name: str) -> None:
    assert flags_of(PICTURES[name]) == [name]


def test_an_ordinary_picture_gets_none() -> None:
    assert flags_of(ORDINARY) == []


def test_the_strongest_case_has_the_highest_severity() -> None:
    columns = {name: np.array([0.1, 0.9, 0.5], np.float32) for name in STATISTICS}
    strongest = {flag.name: int(np.argmax(flag.severity(columns))) for flag in FLAGS}
    assert strongest == {"blank": 0, "washed-out": 0, "over-saturated": 1, "clipped": 1}


def test_hashes_that_stand_twice_are_alike_unless_they_are_plain() -> None:
    textured, plain, bright, single = 0x0F0F0F0F0F0F0F0F, 0x7F, 2**64 - 1, 0x00FF00FF00FF00FF
    hashes = [f"{value:016x}" for value in (textured, plain, bright, single, textured, plain, bright)]
    assert lookalikes(hash_values(hashes)).tolist() == [textured]
