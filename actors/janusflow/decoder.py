"""From JanusFlow's latents to pixels: the decoder half of a diffusers AutoencoderKL, usually the SDXL VAE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from actors.checkpoint.open import Checkpoint
from actors.checkpoint.tensors import open_tensor_file
from actors.checkpoint.weights import shapes_of
from actors.device import compute_dtype
from actors.errors import CheckpointError, InputError, one_line, reason_line
from actors.kernels import image_decoder
from actors.kernels.cuda_graph import GraphPool
from actors.layers import ContiguousGroupNorm, Conv1, InPlaceSiLU, to_uint8

# Images per call of the decoder on a CPU; the last image is repeated to fill it up. A single image would use other
# kernels, so its bits would depend on whether it has a neighbor.
IMAGES_PER_DECODE = 2

DTYPES = (torch.bfloat16, torch.float32)


class VAE:
    """Decodes latents [B, 4, S, S] to pixels with a fetched VAE. Raises CheckpointError."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        check_vae_dtype(dtype)
        self.device, self.dtype = device, compute_dtype(dtype, device)
        # Not the model's own `to`: diffusers warns about every cast there, and this model keeps nothing in float32.
        self.model = nn.Module.to(_load(checkpoint, dtype), self.device, self.dtype)
        self.scaling_factor = self.model.config.scaling_factor

    def decode(self, z_BCHW: torch.Tensor) -> image_decoder.Pixels:
        """Pixels [B, 8 * S, 8 * S, 3] of the solver's latents."""
        num_images = len(z_BCHW)
        pixels, is_finite = [], []
        for start in range(0, num_images, IMAGES_PER_DECODE):
            rows = [min(row, num_images - 1) for row in range(start, start + IMAGES_PER_DECODE)]
            decoded = self.decode_call(z_BCHW[rows])
            pixels.append(to_uint8(decoded))
            is_finite.append(decoded.isfinite().flatten(1).all(dim=1))
        if not pixels:
            return image_decoder.no_pixels(self.device)
        return image_decoder.Pixels(
            pixels=torch.cat(pixels)[:num_images], is_finite_B=torch.cat(is_finite)[:num_images]
        )

    def decode_call(self, z_BCHW: torch.Tensor) -> torch.Tensor:
        """The decoder's output [B, 3, 8 * S, 8 * S], mostly in [-1, 1]."""
        return self.model.decode((z_BCHW / self.scaling_factor).to(self.device, self.dtype)).sample


def gpu_decoder(vae: VAE, latent_shape: tuple[int, int, int], graphs: GraphPool | None) -> image_decoder.ImageDecoder:
    """Latents [B, C, S, S] to pixels on a GPU."""
    vae.model.to(memory_format=torch.channels_last)
    example = torch.zeros(1, *latent_shape, device=vae.device)
    return image_decoder.ImageDecoder(
        decoder_layers(vae.model), lambda z: (z / vae.scaling_factor).to(vae.dtype), example, graphs
    )


def check_vae_dtype(dtype: torch.dtype) -> None:
    """Raise InputError unless the decoder's numbers fit into `dtype`."""
    if dtype not in DTYPES:
        raise InputError(
            "model.dtype must be bfloat16 or float32 for JanusFlow: activations of the SDXL VAE exceed 65504, the "
            f"largest number in float16, and its images become NaN; got {str(dtype).removeprefix('torch.')}"
        )


def decoder_layers(model: nn.Module) -> image_decoder.DecoderLayers:
    """An AutoencoderKL's decoder as a GPU runs it. Raises CheckpointError for attention of several heads."""
    decoder, middle = model.decoder, model.decoder.mid_block
    blocks = [middle.resnets[0], *filter(None, middle.attentions), *middle.resnets[1:]]
    for level in decoder.up_blocks:
        blocks += [*level.resnets, *(level.upsamplers or ())]
    return image_decoder.DecoderLayers(
        post_quant_conv=model.post_quant_conv,
        conv_in=decoder.conv_in,
        blocks=[_block_for_gpu(block) for block in blocks],
        norm_out=decoder.conv_norm_out,
        conv_out=decoder.conv_out,
    )


def _block_for_gpu(block: nn.Module) -> image_decoder.Block:
    if hasattr(block, "to_q"):
        if block.heads != 1:
            raise CheckpointError(f"a VAE's attention has 1 head on a GPU, this one has {block.heads}")
        return image_decoder.AttentionBlock(
            norm=block.group_norm, q=block.to_q, k=block.to_k, v=block.to_v, out=block.to_out[0]
        )
    if not hasattr(block, "norm1"):
        return image_decoder.Upsampling(conv=block.conv)
    return image_decoder.ResidualBlock(
        norm1=block.norm1, conv1=block.conv1, norm2=block.norm2, conv2=block.conv2, shortcut=block.conv_shortcut
    )


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # takes seconds to import

    folder = checkpoint.path
    _check_shapes(checkpoint, AutoencoderKL)
    try:
        model, found = AutoencoderKL.from_pretrained(
            folder,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
            **_choice_of_files(checkpoint.weight_files),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded as a diffusers AutoencoderKL: {reason_line(error)}"
        ) from error
    missing = [key for key in found["missing_keys"] if not key.startswith(("encoder.", "quant_conv."))]
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of the VAE decoder's tensors, {missing[0]} among them")
    unexpected = [key for key in found["unexpected_keys"] if key.startswith(("decoder.", "post_quant_conv."))]
    if unexpected:
        raise CheckpointError(
            f"{folder} holds {len(unexpected)} of the decoder's tensors that its config.json does not ask for, "
            f"{unexpected[0]} among them"
        )
    del model.encoder, model.quant_conv
    _replace_layers(model)
    return model.eval().requires_grad_(False)


def _choice_of_files(weight_files: Sequence[str]) -> dict[str, Any]:
    """What makes diffusers read these files of a folder, which may hold others that are empty."""
    variant = re.match(r"\w+\.(\w+)(?:-\d+-of-\d+)?\.(?:safetensors|bin)$", weight_files[0])
    return {
        "use_safetensors": weight_files[0].endswith(".safetensors"),
        "variant": variant[1] if variant else None,
    }


def _check_shapes(checkpoint: Checkpoint, autoencoder: Any) -> None:
    """Hold the sizes of config.json against the weight files' headers, before diffusers allocates the model."""
    folder = checkpoint.path
    try:
        with torch.device("meta"):
            expected = shapes_of(autoencoder.from_config(dict(checkpoint.config)))
    except Exception as error:  # diffusers checks no types
        raise CheckpointError(
            f"{folder} cannot be loaded as a diffusers AutoencoderKL: its config.json is wrong "
            f"({type(error).__name__}: {one_line(str(error))})"
        ) from error
    for file_name in checkpoint.weight_files:
        for name, shape in open_tensor_file(folder / file_name).shapes.items():
            if expected.get(name, shape) != shape:
                raise CheckpointError(
                    f"{name} of {folder} has shape {list(shape)}, its config.json means {list(expected[name])}"
                )


def _replace_layers(model: nn.Module) -> None:
    """Replace layers whose bits depend on the number of threads by ones whose bits do not."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
                conv = Conv1(child.in_channels, child.out_channels)
                conv.weight, conv.bias = child.weight, child.bias
                setattr(module, name, conv)
            elif isinstance(child, nn.GroupNorm):
                setattr(module, name, ContiguousGroupNorm(child))
            elif isinstance(child, nn.SiLU):
                setattr(module, name, InPlaceSiLU())  # it follows a norm, whose output nothing else reads
