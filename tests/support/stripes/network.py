"""The palette, and the names of a stripes checkpoint's tensors."""

from __future__ import annotations

import torch
from torch import nn

from actors.checkpoint.open import Checkpoint
from actors.checkpoint.weights import load_weights, shapes_of
from tests.support.stripes.config import StripesShape


class Palette(nn.Module):
    """`num_colors` colors, float [num_colors, 3] in [0, 255]."""

    def __init__(self, shape: StripesShape) -> None:
        super().__init__()
        self.colors = nn.Embedding(shape.num_colors, 3)


def read_palette(checkpoint: Checkpoint) -> Palette:
    with torch.device("meta"):
        palette = Palette(checkpoint.shape)
    weights = load_weights(checkpoint, shapes_of(palette), not_needed={}, dtype=torch.float32, device="cpu")
    palette.load_state_dict(weights, assign=True)
    return palette.requires_grad_(False)
