"""Speeds that are known of the published checkpoints, and models of which nothing is known."""

from __future__ import annotations

import pytest

from actors.checkpoint.open import Checkpoint, open_checkpoint, read_shape
from actors.families import ROOFLINE
from tests.support.checkpoints import published
from tests.support.toy_job import recipe
from workflows.cost.estimate import known_speed


def checkpoint(family: str, model: str) -> Checkpoint:
    config, _ = published(model)
    return Checkpoint(name=model, family=family, config=config, shape=read_shape(family, config))


@pytest.mark.parametrize(
    ("model", "batch", "speed"),
    [
        ("Janus-Pro-1B", None, 43.8),
        ("Janus-Pro-1B", 128, 43.8),
        ("Janus-Pro-1B", 100, 24.8),
        ("Janus-1.3B", 4, 24.8),
        ("Janus-Pro-7B", 16, 6.8),
        ("Janus-Pro-7B", None, 15.9),
    ],
)
def test_the_batch_size_decides_which_limit_holds(model: str, batch: int | None, speed: float) -> None:
    found = known_speed(checkpoint("janus", model), recipe(family="janus"), batch)

    assert found is not None
    assert (found.images_per_second, found.device, found.source) == (speed, "H200", ROOFLINE)
    assert model in found.model


def test_the_limit_of_janusflow_is_scaled_to_the_steps() -> None:
    flow = checkpoint("janusflow", "JanusFlow-1.3B")
    found = known_speed(flow, recipe(family="janusflow", num_inference_steps=60), None)

    assert found is not None
    assert found.images_per_second == pytest.approx(4.3)
    assert found.source == f"{ROOFLINE}, scaled from 30 to 60 steps"


def test_the_default_number_of_steps_is_not_scaled() -> None:
    flow = checkpoint("janusflow", "JanusFlow-1.3B")

    assert known_speed(flow, recipe(family="janusflow", num_inference_steps=30), None).source == ROOFLINE


def test_a_text_before_the_image_is_not_in_the_limit() -> None:
    found = known_speed(checkpoint("janus", "Janus-Pro-7B"), recipe(family="janus", protocol="t2i-r1"), None)

    assert found is not None
    assert found.source == f"{ROOFLINE}; without the text before each image"


def test_nothing_is_known_of_other_models() -> None:
    assert known_speed(open_checkpoint("janus-shapes"), recipe(family="janus"), None) is None
    assert known_speed(open_checkpoint("toy"), recipe(), None) is None
