"""Images to codes: the half of the code model that only training needs.

Shapes are aligned to the grid of codes, so the drawings contain few different patches of 8x8 pixels. Each of these
patches gets its own code; any other patch gets the code of the nearest one.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

PATCH = 8  # pixels; the factor of the decoder's three upsamplings
CODE_DIM = 8

# B images, N codes per image in raster order, P values per patch, V codebook entries


def collect_patches(pixels_BCHW: torch.Tensor, num_codes: int) -> torch.Tensor:
    """The V most frequent patches [V, P] of these images, most frequent first.

    If there are fewer than V, the first patches are repeated at the end, as codes that no image uses.
    """
    patches = (to_patches(pixels_BCHW).flatten(0, 1) * 127).round()
    different, counts = torch.unique(patches, dim=0, return_counts=True)
    most_frequent = different[counts.argsort(descending=True, stable=True)] / 127
    print(f"{len(different)} different patches in {len(pixels_BCHW)} images, {num_codes} codes", flush=True)
    return most_frequent[torch.arange(num_codes) % len(most_frequent)]


def to_codes(pixels_BCHW: torch.Tensor, patches_VP: torch.Tensor) -> torch.Tensor:
    """The codes [B, N] of images: the nearest entry for each patch, and the first of several that are equally near."""
    return torch.cdist(to_patches(pixels_BCHW), patches_VP).argmin(dim=-1)


def to_patches(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """[B, N, P], in raster order."""
    return F.unfold(pixels_BCHW, PATCH, stride=PATCH).transpose(1, 2)


def first_embedding(patches_VP: torch.Tensor) -> torch.Tensor:
    """Unit vectors [V, 8] that initialize the codebook: similar patches get similar vectors."""
    centered = patches_VP - patches_VP.mean(dim=0)
    directions = torch.linalg.svd(centered, full_matrices=False).Vh[:CODE_DIM]
    components = centered @ directions.T
    return F.normalize(components / components.std(dim=0), dim=1)
