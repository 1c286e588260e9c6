"""The shallow U-ViT encoder and decoder between JanusFlow's latents and its language model, with the original keys.

The encoder turns a noisy latent and a time into a feature map and a time embedding; the decoder turns the language
model's hidden states and that feature map into a velocity. Both use ConvNeXt V2 blocks
(https://arxiv.org/abs/2301.00808) that the time scales and shifts, as in https://arxiv.org/abs/2301.11093.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from actors.janusflow.config import FlowShape
from actors.layers import VectorLinear, silu

# B rows, C channels, H x W positions, D the language model's hidden size. Maps are [B, C, H, W] with the channels last
# in memory, so `permute` between the convolutions and the linear layers costs nothing.

RES_FFN_FACTOR = 4  # channels of a block's hidden layer, as a multiple of its own
PATCH_SIZE = 2  # latent positions of one image token, per side
MAX_PERIOD = 10_000  # of the time embedding's slowest wave


class UViTEncoder(nn.Module):
    """`(z_BCHW, t_B) -> (map_BCHW, t_emb_BD)`: patches of the latent as a map, and the time as one more token."""

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        channels, hidden_size = shape.encoder_channels, shape.llama.hidden_size
        self.time_embed = TimeEmbedding(channels, hidden_size)
        self.in_conv = nn.Conv2d(shape.latent_channels, channels, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.mid_block = MidBlock(shape.num_encoder_blocks, channels, hidden_size, shape.norm_eps)

    def forward(self, z_BCHW: torch.Tensor, t_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`t_B` is float32 and runs from 0 (noise) to 1000 (image); everything else has the model's dtype."""
        t_emb_BD = self.time_embed(t_B, z_BCHW.dtype)
        return self.mid_block(self.in_conv(z_BCHW), t_emb_BD), t_emb_BD


class UViTDecoder(nn.Module):
    """`(x_BCHW, skip_BCHW, t_emb_BD) -> velocity_BCHW`, where `skip_BCHW` is the encoder's map of the same latent."""

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        channels = shape.decoder_channels + shape.encoder_channels
        self.input_norm = LlamaRMSNorm(shape.decoder_channels, shape.norm_eps)
        self.mid_block = MidBlock(shape.num_decoder_blocks, channels, shape.llama.hidden_size, shape.norm_eps)
        self.out_convs = nn.ModuleList([Unpatchify(channels, shape.latent_channels, shape.norm_eps)])

    def forward(self, x_BCHW: torch.Tensor, skip_BCHW: torch.Tensor, t_emb_BD: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.input_norm(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x_BCHW = self.mid_block(torch.cat([x_BCHW, skip_BCHW], dim=1), t_emb_BD)
        return self.out_convs[0](x_BCHW)


class TimeEmbedding(nn.Module):
    """A time as cosines and sines of it (cosines first), then two linear layers up to the hidden size."""

    def __init__(self, channels: int, hidden_size: int) -> None:
        super().__init__()
        self.num_waves = channels // 2
        self.linear_1 = VectorLinear(channels, hidden_size)
        self.linear_2 = VectorLinear(hidden_size, hidden_size)

    def forward(self, t_B: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        exponent = torch.arange(self.num_waves, dtype=torch.float32, device=t_B.device) / self.num_waves
        phase = t_B[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
        waves = torch.cat([phase.cos(), phase.sin()], dim=1).to(dtype)
        return self.linear_2(silu(self.linear_1(waves)))


class MidBlock(nn.Module):
    """ConvNeXt blocks, one after another."""

    def __init__(self, num_blocks: int, channels: int, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList([ConvNeXtBlock(channels, hidden_size, norm_eps) for _ in range(num_blocks)])

    def forward(self, x_BCHW: torch.Tensor, t_emb_BD: torch.Tensor) -> torch.Tensor:
        for block in self.res_blocks:
            x_BCHW = block(x_BCHW, t_emb_BD)
        return x_BCHW


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution and two linear layers over the channels around it, then a scale and shift by the time."""

    def __init__(self, channels: int, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        inner = RES_FFN_FACTOR * channels
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = LlamaRMSNorm(channels, norm_eps)
        self.channelwise_linear_1 = nn.Linear(channels, inner)
        self.channelwise_norm = GlobalResponseNorm(inner)
        self.channelwise_linear_2 = nn.Linear(inner, channels)
        self.cond_embeds_mapper = VectorLinear(hidden_size, 2 * channels)

    def forward(self, x_BCHW: torch.Tensor, t_emb_BD: torch.Tensor) -> torch.Tensor:
        y_BHWC = self.norm(self.depthwise(x_BCHW).permute(0, 2, 3, 1))
        y_BHWC = self.channelwise_norm(F.gelu(self.channelwise_linear_1(y_BHWC)))
        y_BHWC = self.channelwise_linear_2(y_BHWC) + x_BCHW.permute(0, 2, 3, 1)
        scale_BC, shift_BC = self.cond_embeds_mapper(silu(t_emb_BD)).chunk(2, dim=1)
        y_BHWC = torch.addcmul(shift_BC[:, None, None], y_BHWC, 1 + scale_BC[:, None, None])
        return y_BHWC.permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its norm over the whole map, relative to the mean of the channels' norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x_BHWC: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x_BHWC, dim=(1, 2), keepdim=True)
        response = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return torch.addcmul(self.bias, self.weight * response + 1, x_BHWC)


class Unpatchify(nn.Module):
    """Each position of the map becomes a patch of PATCH_SIZE x PATCH_SIZE positions."""

    def __init__(self, channels: int, out_channels: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(channels, norm_eps)
        self.unpatch_conv = nn.Conv2d(channels, out_channels * PATCH_SIZE**2, kernel_size=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        # A 1x1 convolution as the matrix product it is: oneDNN's own depends on the number of threads in float32.
        weight, bias = self.unpatch_conv.weight.flatten(1), self.unpatch_conv.bias
        y_BHWC = F.linear(self.norm(x_BCHW.permute(0, 2, 3, 1)), weight, bias)
        return F.pixel_shuffle(y_BHWC.permute(0, 3, 1, 2), PATCH_SIZE)
