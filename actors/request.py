"""One image asked of an engine, and the two answers it can get: its pixels, or the reason there are none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.recipe import SamplingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest(SamplingSettings):
    """Everything that decides the pixels of one image, apart from the model its engine was loaded with.

    `seed` is the image's own 64-bit seed, already derived (see `actors.noise.derive_seed`). `cfg_weight` is the
    guidance weight; 1.0 turns guidance off. A `negative_prompt` of None means the model's own unconditional prompt.
    """

    image_id: str
    prompt_id: str
    image_index: int
    prompt: str
    negative_prompt: str | None = None
    seed: int
    cfg_weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must fit in 64 unsigned bits (0 to {2**64 - 1}), got {self.seed}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RenderedImage:
    """The pixels of one request, uint8 [height, width, 3], and what they were decoded from.

    `codes` (Janus) are the VQ token ids, int32 [num_codes] in raster order; `latents` (JanusFlow) are float32
    [4, height/8, width/8] before the VAE. Either decodes to `pixels` again without sampling.
    """

    image_id: str
    pixels: np.ndarray
    codes: np.ndarray | None = None
    latents: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An image that cannot be made, with the reason a person reads in `rejected/`."""

    image_id: str
    reason: str
