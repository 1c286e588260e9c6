from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from actors.understanding.scorers.head import check_head, embedding_dimensions
from actors.understanding.scorers.source import ScorerError


def head(**shapes: tuple[int, ...]) -> bytes:
    return save({name.replace("_", "."): np.ones(shape, np.float32) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not tensors", "the head is no safetensors file: "),
        (b"", "the head is no safetensors file: "),
        (head(), r"must hold a weight \[1, D\] and a bias \[1\], got no tensors"),
        (head(weight=(1, 16)), r"must hold a weight \[1, D\] and a bias \[1\], got weight \[1, 16\]"),
        (head(weight=(2, 16), bias=(2,)), r"must hold a weight \[1, D\]"),
        (head(weight=(1, 16), bias=(16,)), r"must hold a weight \[1, D\]"),
        (head(weight=(16,), bias=(1,)), r"must hold a weight \[1, D\]"),
        (head(a_weight=(1, 16), a_bias=(1,), b_bias=(1,), c=(1,)), r"must hold a weight \[1, D\]"),
        (head(weight=(1, 3), bias=(1,)), "the head takes embeddings of 3 dimensions, the model's have 16"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        check_head(data, 16)


def test_a_head_has_any_prefix() -> None:
    check_head(head(linear_weight=(1, 16), linear_bias=(1,)), 16)


def test_the_dimensions_of_an_embedding_are_those_of_the_model() -> None:
    assert embedding_dimensions({"model_type": "clip", "projection_dim": 16}) == 16
    assert embedding_dimensions({"model_type": "clip"}) == 512
    assert embedding_dimensions({"model_type": "siglip", "vision_config": {"hidden_size": 1152}}) == 1152
    assert embedding_dimensions({"model_type": "siglip2", "vision_config": {}}) == 768
