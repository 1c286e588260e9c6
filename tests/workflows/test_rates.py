"""Rates that are known of the published checkpoints, by their own config.json, and what is not known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.toy_job import recipe
from workflows.rates import ROOFLINE, known_rate

DATA = Path(__file__).parents[1] / "data"


def published(model: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((DATA / "real_shapes" / f"{model}.json.gz").read_bytes()))["config"]


@pytest.mark.parametrize(
    ("model", "batch", "rate"),
    [
        ("Janus-Pro-1B", None, 43.8),
        ("Janus-Pro-1B", 128, 43.8),
        ("Janus-Pro-1B", 100, 24.8),
        ("Janus-1.3B", 4, 24.8),
        ("Janus-Pro-7B", 16, 6.8),
        ("Janus-Pro-7B", None, 15.9),
    ],
)
def test_the_batch_size_decides_which_limit_holds(model: str, batch: int | None, rate: float) -> None:
    found = known_rate(published(model), recipe(family="janus"), batch)

    assert found is not None
    assert (found.images_per_second, found.device, found.source) == (rate, "H200", ROOFLINE)
    assert model in found.model


def test_the_limit_of_janusflow_is_scaled_to_the_steps() -> None:
    found = known_rate(published("JanusFlow-1.3B"), recipe(family="janusflow", num_inference_steps=60), None)

    assert found is not None
    assert found.images_per_second == pytest.approx(4.3)
    assert found.source == f"{ROOFLINE}, scaled from 30 to 60 steps"


def test_of_other_models_nothing_is_known() -> None:
    config = json.loads((Path(__file__).parents[2] / "actors/checkpoint/bundled/janus-shapes/config.json").read_text())

    assert known_rate(config, recipe(family="janus"), None) is None
    assert known_rate({}, recipe(), None) is None
