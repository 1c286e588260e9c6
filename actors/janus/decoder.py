"""The VQ-16 decoder: from an image's codes to its pixels. The encoder and the training of the codebook are not here.

Module names are those of the original state dict, so that its tensors load as they are. Architecture:
https://arxiv.org/abs/2406.06525 (LlamaGen) by way of https://github.com/deepseek-ai/Janus `vq_model.py`.

Shapes: B images, N codes of an image in raster order, H x W codes, V codebook entries of E channels.
"""

from __future__ import annotations

import functools
from collections.abc import MutableMapping

import torch
from torch import nn
from torch.nn import functional as F

from actors.janus.config import NUM_RES_BLOCKS, VQShape
from actors.kernels import image_decoder
from actors.kernels.cuda_graph import GraphPool
from actors.layers import Conv1, Embedding, silu_, to_uint8

IMAGES_PER_CALL = 2  # on a CPU

_PREFIX = "gen_vision_model."


def load_vq_decoder(weights: MutableMapping[str, torch.Tensor], shape: VQShape) -> VQDecoder:
    """The decoder from a checkpoint's tensors under their original-layout names, which are taken out of `weights`."""
    names = [name for name in weights if name.startswith(_PREFIX)]
    state = {name.removeprefix(_PREFIX): weights.pop(name) for name in names}
    with torch.device("meta"):
        decoder = VQDecoder(shape)
    decoder.load_state_dict(state, assign=True)
    decoder.quantize.embedding.weight.data = F.normalize(decoder.quantize.embedding.weight.data, dim=-1)
    return decoder.requires_grad_(False)


class CpuDecoder:
    """Codes [B, N] to pixels on a CPU, in calls of a fixed size: one image would use other kernels than several."""

    def __init__(self, vq: VQDecoder, grid_size: int) -> None:
        self.vq, self.grid = vq, (grid_size, grid_size)

    def __call__(self, codes_BN: torch.Tensor) -> image_decoder.Pixels:
        num_missing = -len(codes_BN) % IMAGES_PER_CALL
        filled = torch.cat([codes_BN, codes_BN[:1].expand(num_missing, -1)])
        pixels, is_finite = [], []
        for part in filled.split(IMAGES_PER_CALL):
            decoded = self.vq(part, self.grid)
            pixels.append(to_uint8(decoded))
            is_finite.append(decoded.isfinite().flatten(1).all(dim=1))
        num_images = len(codes_BN)
        return image_decoder.Pixels(
            pixels=torch.cat(pixels)[:num_images], is_finite_B=torch.cat(is_finite)[:num_images]
        )


def gpu_decoder(vq: VQDecoder, grid_size: int, graphs: GraphPool | None) -> image_decoder.ImageDecoder:
    """Codes [B, N] to pixels on a GPU."""
    vq.to(memory_format=torch.channels_last)
    example = torch.zeros(1, grid_size**2, dtype=torch.long, device=vq.quantize.embedding.weight.device)
    look_up = functools.partial(vq.look_up, grid=(grid_size, grid_size))
    return image_decoder.ImageDecoder(decoder_layers(vq), look_up, example, graphs)


def decoder_layers(vq: VQDecoder) -> image_decoder.DecoderLayers:
    """The decoder's layers as a GPU runs them."""
    decoder, blocks = vq.decoder, list(vq.decoder.mid)
    for level in decoder.conv_blocks:
        for index, block in enumerate(level.res):
            blocks += [block, *level.attn[index : index + 1]]
        if hasattr(level, "upsample"):
            blocks.append(level.upsample)
    return image_decoder.DecoderLayers(
        post_quant_conv=vq.post_quant_conv,
        conv_in=decoder.conv_in,
        blocks=[_block_for_gpu(block) for block in blocks],
        norm_out=decoder.norm_out,
        conv_out=decoder.conv_out,
    )


def _block_for_gpu(block: nn.Module) -> image_decoder.Block:
    if isinstance(block, AttentionBlock):
        return image_decoder.AttentionBlock(norm=block.norm, q=block.q, k=block.k, v=block.v, out=block.proj_out)
    if isinstance(block, Upsample):
        return image_decoder.Upsampling(conv=block.conv)
    return image_decoder.ResidualBlock(
        norm1=block.norm1,
        conv1=block.conv1,
        norm2=block.norm2,
        conv2=block.conv2,
        shortcut=getattr(block, "nin_shortcut", None),
    )


class VQDecoder(nn.Module):
    """Codes to images.

    Activations are NCHW. channels_last is 10 to 20 % faster on a CPU, but its group norm splits an image among the
    threads, so the bits would depend on their number and on the image's position in the batch.
    """

    def __init__(self, shape: VQShape) -> None:
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding = Embedding(shape.codebook_size, shape.code_dim)  # rows of length 1 once loaded
        self.post_quant_conv = Conv1(shape.code_dim, shape.z_channels)
        self.decoder = Decoder(shape)

    def forward(self, codes_BN: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Decode codes laid out on `grid` = (H, W) to [B, 3, height, width]."""
        return self.decoder(self.post_quant_conv(self.look_up(codes_BN, grid)))

    def look_up(self, codes_BN: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The codes' codebook entries, [B, E, H, W]."""
        return self.quantize.embedding(codes_BN).unflatten(1, grid).permute(0, 3, 1, 2).contiguous()


class Decoder(nn.Module):
    """From the resolution of the codes to that of the image: every level but the last doubles it."""

    def __init__(self, shape: VQShape) -> None:
        super().__init__()
        widths = [shape.channels * multiplier for multiplier in reversed(shape.channel_multipliers)]
        self.conv_in = _conv3(shape.z_channels, widths[0])
        self.mid = nn.Sequential(
            ResBlock(widths[0], widths[0]), AttentionBlock(widths[0]), ResBlock(widths[0], widths[0])
        )
        self.conv_blocks = nn.Sequential(
            *[
                Level(num_in, num_out, has_attention=index == 0, is_last=index == len(widths) - 1)
                for index, (num_in, num_out) in enumerate(zip([widths[0], *widths], widths, strict=False))
            ]
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = _conv3(widths[-1], 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.conv_blocks(self.mid(self.conv_in(z)))
        return self.conv_out(silu_(self.norm_out(x)))


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention at the lowest one, and the upsampling to the next."""

    def __init__(self, num_in: int, num_out: int, *, has_attention: bool, is_last: bool) -> None:
        super().__init__()
        num_blocks = NUM_RES_BLOCKS + 1
        self.res = nn.ModuleList(ResBlock(num_in if index == 0 else num_out, num_out) for index in range(num_blocks))
        self.attn = nn.ModuleList(AttentionBlock(num_out) for _ in range(num_blocks if has_attention else 0))
        if not is_last:
            self.upsample = Upsample(num_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class ResBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(num_in), _conv3(num_in, num_out)
        self.norm2, self.conv2 = _norm(num_out), _conv3(num_out, num_out)
        if num_in != num_out:
            self.nin_shortcut = Conv1(num_in, num_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(silu_(self.norm1(x)))
        h = self.conv2(silu_(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttentionBlock(nn.Module):
    """One head over all positions of the image."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.norm = _norm(num_channels)
        self.q, self.k, self.v, self.proj_out = (Conv1(num_channels, num_channels) for _ in range(4))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        h = self.norm(x_BCHW)
        q, k, v = (
            conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )  # [B, 1, H * W, C]
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x_BCHW + self.proj_out(attended.unflatten(2, x_BCHW.shape[2:]))


class Upsample(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = _conv3(num_channels, num_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _conv3(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1)


def _norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, num_channels, eps=1e-6)
