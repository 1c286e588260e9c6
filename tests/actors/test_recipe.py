"""The recipe: as a dictionary, as a key, and how many images it asks for per row."""

from __future__ import annotations

import dataclasses
from typing import Any

from actors.prompt.template import WORDS
from actors.recipe import Adapter, Recipe
from tests.support.toy_job import LOOK, judge, recipe

SWEEP = recipe(
    cfg_weights=(1.0, 2.5, 5.0), images_per_prompt=4, cfg_interval=(0.25, 0.75), seed=2**64 - 1, revision="abc"
)


def test_every_field_stands_in_the_dictionary() -> None:
    optional: dict[str, Any] = {"prompt_template": WORDS, "protocol": "text-first", "adapters": (Adapter(name="a"),)}
    optional |= {"judge": judge(), "look": LOOK}
    every = dataclasses.replace(SWEEP, **optional)
    assert list(every.to_dict()) == [field.name for field in dataclasses.fields(Recipe)]
    assert list(SWEEP.to_dict()) == [name for name in every.to_dict() if name not in optional]


def test_a_recipe_can_be_a_key() -> None:
    assert {SWEEP: 1}[dataclasses.replace(SWEEP)] == 1


def test_a_row_without_a_weight_has_every_index_at_every_weight() -> None:
    assert SWEEP.images_per_row == 12
    assert recipe(images_per_prompt=4).images_per_row == 4


def test_a_question_is_about_the_prompt_without_the_space_around_it() -> None:
    assert judge(question="Is {it} {prompt}?").question_about(" {a} {prompt}\n") == "Is {it} {a} {prompt}?"
    assert judge(question="Is it sharp?").question_about("a") == "Is it sharp?"
