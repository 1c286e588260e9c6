"""The bundled checkpoints draw what held-out prompts say and see what drawings show, and a wrong pad is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from actors.checkpoint.folder import BUNDLED
from actors.families import FAMILIES
from benchmarks.cfg_curve import break_pad
from examples.shapes.evaluate import load, render, share_right
from examples.shapes.evaluate_vision import load_looker, shares_right
from examples.shapes.schedule import CHECKPOINTS
from examples.shapes.world import held_out_pairs, held_out_singles
from jobs.cli.main import cli

MAX_BYTES = 8.5e6


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_held_out_prompts_of_one_shape_are_drawn_at_the_working_weight(name: str) -> None:
    engine, recipe = load(CHECKPOINTS / name)
    scenes = held_out_singles(21, 24)
    images = render(engine, recipe, scenes, FAMILIES[recipe.family].default_cfg_weight)
    assert share_right(images, scenes) >= 0.85


@pytest.mark.slow
def test_guidance_helps_janus_shapes_with_two_shapes() -> None:
    engine, recipe = load(CHECKPOINTS / "janus-shapes")
    scenes = held_out_pairs(21, 24)
    guided, unguided = render(engine, recipe, scenes, 5.0), render(engine, recipe, scenes, 1.0)
    assert share_right(guided, scenes) > share_right(unguided, scenes)


@pytest.mark.slow
def test_janus_shapes_sees_what_held_out_drawings_show() -> None:
    looker = load_looker(CHECKPOINTS / "janus-shapes")
    shares = shares_right(looker, held_out_singles(21, 30))
    assert min(shares.values()) >= 0.8


@pytest.mark.slow
def test_janusflow_shapes_draws_two_shapes_and_too_much_guidance_harms_them() -> None:
    engine, recipe = load(CHECKPOINTS / "janusflow-shapes")
    scenes = held_out_pairs(21, 24)
    guided, over_guided = render(engine, recipe, scenes, 2.0), render(engine, recipe, scenes, 10.0)
    assert share_right(guided, scenes) >= 0.8
    assert share_right(guided, scenes) > share_right(over_guided, scenes)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_checkpoint_is_small_enough_for_a_repository(name: str) -> None:
    assert sum(path.stat().st_size for path in (CHECKPOINTS / name).rglob("*") if path.is_file()) <= MAX_BYTES


def test_the_doctor_notices_a_pad_that_is_another_token(tmp_path: Path) -> None:
    broken = break_pad(CHECKPOINTS / "janus-shapes", tmp_path / "broken")
    result = CliRunner().invoke(cli, ["doctor", str(broken)], standalone_mode=False)
    assert result.return_value == 1
    assert "the vocabulary says" in result.output
