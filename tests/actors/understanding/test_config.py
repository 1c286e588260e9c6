"""The vision tower of published and tiny checkpoints, and the settings that are refused."""

from __future__ import annotations

import json
import re

import pytest

from actors.errors import CheckpointError
from actors.understanding.config import VisionShape, read_vision_shape
from tests.support.checkpoints import FLOW, TINY, changed, published

LARGE = {"image_size": 384, "patch_size": 16, "width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096}
CONFIG = json.loads((TINY / "config.json").read_text("utf-8"))
TRANSFORMERS = {"model_type": "janus", "text_config": {"hidden_size": 2048}, "vision_config": {}}


@pytest.mark.parametrize(
    ("model", "layout", "num_aligner_layers", "hidden_size"),
    [
        ("Janus-1.3B", "original", 2, 2048),
        ("Janus-Pro-1B", "original", 2, 2048),
        ("Janus-Pro-7B", "original", 2, 4096),
        ("JanusFlow-1.3B", "flow", 1, 2048),
    ],
)
def test_published_checkpoints_have_the_large_siglip(
    model: str, layout: str, num_aligner_layers: int, hidden_size: int
) -> None:
    expected = VisionShape(layout=layout, num_aligner_layers=num_aligner_layers, hidden_size=hidden_size, **LARGE)
    assert read_vision_shape(published(model)[0]) == expected
    assert expected.num_tokens == 576


def test_transformers_defaults_are_the_large_siglip() -> None:
    expected = VisionShape(layout="transformers", num_aligner_layers=2, hidden_size=2048, **LARGE)
    assert read_vision_shape(TRANSFORMERS) == expected


def test_a_tower_is_read_from_its_sizes() -> None:
    shape = read_vision_shape(json.loads((FLOW / "config.json").read_text("utf-8")))
    assert (shape.width, shape.num_layers, shape.num_heads, shape.mlp_width, shape.num_tokens) == (32, 2, 2, 128, 36)
    assert shape.embeds_begin_of_image
    assert not read_vision_shape(CONFIG).embeds_begin_of_image


@pytest.mark.parametrize(("select_layer", "num_built"), [(0, 2), (-1, 2), (-2, 1), (1, 1), (2, 2), (7, 2)])
def test_select_layer_says_how_many_blocks_are_built(select_layer: int, num_built: int) -> None:
    config = changed(CONFIG, "vision_config.params.select_layer", select_layer)
    assert read_vision_shape(config).num_layers == num_built


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_config.cls", "SAM", "vision_config.cls must be 'CLIPVisionTower'"),
        ("vision_config.params.select_feature", "patch", "select_feature must be 'same'"),
        ("vision_config.params.select_layer", -3, "select_layer must be a whole number from -2 to"),
        ("vision_config.params.pixel_mean", [0.5], "pixel_mean must be None"),
        ("vision_config.params.heads", 3, "32 channels must be a multiple of its 3 attention heads"),
        ("vision_config.params.width", None, "must give width, or a model_name of siglip_large_patch16_384"),
        ("vision_config.params.patch_size", 128, "must be at least 128 pixels, got 96"),
        ("vision_config.params.image_size", 768, "needs 2306 tokens"),
        ("aligner_config.params.projector_type", "linear", "projector_type must be 'mlp_gelu'"),
    ],
)
def test_what_the_tower_does_not_implement_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_vision_shape(changed(CONFIG, path, value))


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "gelu_pytorch_tanh"), ("use_qk_norm", True), ("projection_dim", 64)]
)
def test_what_the_tower_does_not_implement_is_refused_in_the_transformers_layout(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"vision_config.{key} must be"):
        read_vision_shape(TRANSFORMERS | {"vision_config": {key: value}})
