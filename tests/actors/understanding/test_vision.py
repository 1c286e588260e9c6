"""The tower and the aligner of every family and layout give the reference's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.understanding.config import VisionShape
from actors.understanding.vision import VisionEncoder
from tests.support.checkpoints import fetched
from tests.support.looking import TINY_OF_FAMILY, encoder_of, goldens, write_transformers_layout

TOLERANCE = 2e-5


def pixels() -> torch.Tensor:
    return torch.from_numpy(goldens()["pixel_values"])


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_the_original_layout_gives_the_references_numbers(family: str) -> None:
    encoder = encoder_of(fetched(TINY_OF_FAMILY[family]))
    patches = encoder.tower(pixels())
    assert np.abs(patches.numpy() - goldens()[f"{family}_tower"]).max() < TOLERANCE
    assert np.abs(encoder.aligner(patches).numpy() - goldens()[f"{family}_aligned"]).max() < TOLERANCE


def test_the_transformers_layout_gives_the_same_encoder(tmp_path: Path) -> None:
    original = encoder_of(fetched(TINY_OF_FAMILY["janus"])).state_dict()
    renamed = encoder_of(fetched(write_transformers_layout(tmp_path / "renamed"))).state_dict()
    assert [name for name, tensor in original.items() if not torch.equal(tensor, renamed[name])] == []


def test_an_encoder_of_other_sizes_can_be_trained() -> None:
    """A tower with 8 x 8 patches learns to tell a dark picture from a bright one."""
    torch.manual_seed(0)
    shape = VisionShape(
        layout="original",
        image_size=16,
        patch_size=8,
        width=16,
        num_layers=1,
        num_heads=2,
        mlp_width=32,
        num_aligner_layers=2,
        hidden_size=8,
    )
    encoder = VisionEncoder(shape)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    brightness = torch.tensor([-1.0, 1.0] * 4)
    images = torch.randn(8, 3, 16, 16) * 0.1 + brightness[:, None, None, None] / 2
    for _ in range(20):
        embeddings = encoder(images)
        assert embeddings.shape == (8, shape.num_tokens, 8)
        loss = torch.nn.functional.mse_loss(embeddings.mean((1, 2)), brightness)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
