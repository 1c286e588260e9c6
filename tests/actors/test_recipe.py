"""The recipe: through JSON and back, and how many images it makes of a row."""

from __future__ import annotations

import dataclasses
import json

import pytest

from actors.recipe import Recipe
from tests.support.toy_job import recipe

SWEEP = recipe(
    cfg_weights=(1.0, 2.5, 5.0), images_per_prompt=4, cfg_interval=(0.25, 0.75), seed=2**64 - 1, revision="abc"
)


@pytest.mark.parametrize("one", [recipe(), SWEEP, recipe(temperature=None, num_inference_steps=30, solver="heun")])
def test_a_recipe_comes_back_from_json(one: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_every_field_stands_in_the_dictionary() -> None:
    assert list(SWEEP.to_dict()) == [field.name for field in dataclasses.fields(Recipe)]


def test_a_recipe_can_be_a_key() -> None:
    assert {SWEEP: 1}[Recipe.from_dict(SWEEP.to_dict())] == 1


def test_a_row_without_a_weight_has_every_index_at_every_weight() -> None:
    assert SWEEP.images_per_row == 12
    assert recipe(images_per_prompt=4).images_per_row == 4


def test_a_recipe_of_another_version_is_refused() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'sharpness'"):
        Recipe.from_dict({**SWEEP.to_dict(), "sharpness": 3})
