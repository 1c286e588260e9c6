"""Pictures to codes: the half of the code model that training needs and rendering does not.

Every shape of the world stands on the grid of codes, so its drawings hold few different patches of 8x8 pixels: each has
a code of its own, and the code of any other patch is that of the nearest one.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

PATCH = 8  # pixels; the factor of the decoder's three upsamplings
CODE_DIM = 8

# B pictures, N codes of a picture in raster order, P numbers of a patch, V codebook entries


def collect_patches(pixels_BCHW: torch.Tensor, num_codes: int) -> torch.Tensor:
    """The most frequent patches [V, P] of these pictures, the most frequent one first.

    Where there are fewer than V, the last rows repeat the first: codes that no picture has.
    """
    patches = (to_patches(pixels_BCHW).flatten(0, 1) * 127).round()
    different, counts = torch.unique(patches, dim=0, return_counts=True)
    most_frequent = different[counts.argsort(descending=True, stable=True)] / 127
    print(f"{len(different)} different patches in {len(pixels_BCHW)} pictures, {num_codes} codes", flush=True)
    return most_frequent[torch.arange(num_codes) % len(most_frequent)]


def to_codes(pixels_BCHW: torch.Tensor, patches_VP: torch.Tensor) -> torch.Tensor:
    """The codes [B, N] of pictures: of each patch the nearest entry, the first where several are as near."""
    return torch.cdist(to_patches(pixels_BCHW), patches_VP).argmin(dim=-1)


def to_patches(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """[B, N, P], in raster order."""
    return F.unfold(pixels_BCHW, PATCH, stride=PATCH).transpose(1, 2)


def first_embedding(patches_VP: torch.Tensor) -> torch.Tensor:
    """Unit vectors [V, 8] to start the codebook from: patches that look alike lie side by side."""
    centered = patches_VP - patches_VP.mean(dim=0)
    directions = torch.linalg.svd(centered, full_matrices=False).Vh[:CODE_DIM]
    components = centered @ directions.T
    return F.normalize(components / components.std(dim=0), dim=1)
