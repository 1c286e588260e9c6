"""The network that reads an image: a SigLIP vision tower, and the aligner, which leads its output to the text model.

B images, S pixels per side, N patches of an image in raster order, D channels of the tower, C of the text model.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from actors.understanding.config import VisionShape

NORM_EPS = 1e-6


class VisionEncoder(nn.Module):
    """Pixels float32 [B, 3, S, S] in [-1, 1] (see `actors.understanding.pixels`) to embeddings [B, N, C].

    Its tensors have the names of the original layout after `tower.` and `aligner.`; `actors.understanding.weights`
    knows what a checkpoint calls these two.
    """

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.tower = VisionTower(shape)
        layers: list[nn.Module] = [nn.Linear(shape.width, shape.hidden_size)]
        for _ in range(1, shape.num_aligner_layers):
            layers += [nn.GELU(), nn.Linear(shape.hidden_size, shape.hidden_size)]
        self.aligner = nn.Sequential(*layers)

    def forward(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        return self.aligner(self.tower(pixels_B3SS))


class VisionTower(nn.Module):
    """SigLIP without its pooling head: every patch after the last norm, [B, N, D]."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, shape.width, kernel_size=shape.patch_size, stride=shape.patch_size)}
        )
        self.pos_embed = nn.Parameter(torch.empty(1, shape.num_tokens, shape.width))
        nn.init.trunc_normal_(self.pos_embed, std=shape.width**-0.5)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.width, NORM_EPS)

    def forward(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        x_BND = self.patch_embed["proj"](pixels_B3SS).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.norm(x_BND)


class _Block(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, NORM_EPS)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, NORM_EPS)
        self.mlp = _Mlp(shape)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class _Attention(nn.Module):
    """Every patch attends to every other one."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, heads, D of a head]
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.mlp_width)
        self.fc2 = nn.Linear(shape.mlp_width, shape.width)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))  # by the error function: SigLIP's own code has tanh
