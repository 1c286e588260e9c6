"""The code model's other half, which training needs and rendering does not: pictures to codes.

The encoder sees one 8x8 patch at a time, so that equal patches have equal codes and a flat patch costs one code.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

PATCH = 8  # pixels; the factor of the decoder's three upsamplings
CODE_DIM = 8


class PatchEncoder(nn.Module):
    """Pixels [B, 3, H, W] in [-1, 1] to unit vectors [B, 8, H/8, W/8]."""

    def __init__(self) -> None:
        super().__init__()
        width = 256
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, PATCH, stride=PATCH), nn.GELU(),
            nn.Conv2d(width, width, 1), nn.GELU(),
            nn.Conv2d(width, CODE_DIM, 1),
        )  # fmt: skip

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.layers(pixels_BCHW).float(), dim=1)


def nearest_codes(latents_BCHW: torch.Tensor, codebook_VC: torch.Tensor) -> torch.Tensor:
    """The ids [B, H*W] of the codebook's unit vectors nearest to the latents, in raster order."""
    flat = latents_BCHW.flatten(2).transpose(1, 2)
    return (flat @ codebook_VC.T).argmax(dim=-1)


def spherical_kmeans(vectors_NC: torch.Tensor, num_codes: int, generator: torch.Generator) -> torch.Tensor:
    """`num_codes` unit vectors that cover the given ones: k-means by angle.

    Equal vectors count once, so the many flat patches hold one code each and edges get the rest. An empty cluster is
    started again at the vector that is served worst: no code is dead.
    """
    vectors = torch.unique((vectors_NC * 4096).round(), dim=0) / 4096
    vectors = F.normalize(vectors, dim=1)
    centers = vectors[torch.randperm(len(vectors), generator=generator)[:num_codes]]
    for _ in range(15):
        nearest_of_chunks = [(chunk @ centers.T).max(dim=1) for chunk in vectors.split(4096)]
        similarity, nearest = (torch.cat(parts) for parts in zip(*nearest_of_chunks, strict=True))
        sums = torch.zeros_like(centers).index_add_(0, nearest, vectors)
        counts = torch.bincount(nearest, minlength=num_codes)
        empty = counts == 0
        sums[empty] = vectors[similarity.argsort()[: int(empty.sum())]]
        centers = F.normalize(sums, dim=1)
    return centers
