"""The stripes engine: two colors of the palette, chosen by prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actors.checkpoint.open import Checkpoint
from actors.noise import uniform_noise
from actors.prompt.tokenizer import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage
from tests.support.stripes.network import read_palette


class StripesEngine:
    device = "cpu"
    default_batch_size = 4

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint) -> None:
        self.shape = checkpoint.shape
        self.palette = read_palette(checkpoint)
        self.tokenizer = PromptTokenizer(checkpoint.path, checkpoint.prompt_format)

    def refusal(self, request: ImageRequest) -> str | None:
        return None

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        return [self._render_one(request) for request in requests]

    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor(self.tokenizer.cond_ids(prompt)).float()
        return ids, torch.zeros_like(ids)

    def is_decoder_finite(self) -> bool:
        return bool(self.palette.colors.weight.isfinite().all())

    def _render_one(self, request: ImageRequest) -> RenderedImage:
        num_tokens = len(self.tokenizer.cond_ids(request.prompt))
        codes = (num_tokens + uniform_noise(request.seed, 2) * self.shape.num_colors).astype(np.int32)
        codes %= self.shape.num_colors
        stripes = self.palette.colors.weight.numpy()[codes].astype(np.uint8)  # [2, 3]
        size = self.shape.image_size
        pixels = np.broadcast_to(stripes[np.arange(size) % 2][:, None], (size, size, 3)).copy()
        return RenderedImage(image_id=request.image_id, pixels=pixels, codes=codes)
