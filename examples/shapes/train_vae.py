"""Trains the small AutoencoderKL of janusflow-shapes: images of 64x64 pixels to latents of 4x8x8 and back.

Run from the project's root: `python -m examples.shapes.train_vae`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from examples.shapes.images import busy_crops, draw_batch, image_batches, reconstruction_loss, share_right
from examples.shapes.schedule import (
    CHECKPOINTS,
    device,
    mixed_precision,
    parse_arguments,
    set_learning_rate,
    start_as_identity,
    training_steps,
)
from examples.shapes.world import held_out_pairs, held_out_singles

OUTPUT = CHECKPOINTS / "janusflow-shapes" / "vae"
BATCH = 16
CROPPED, CROP = 0.8, 32  # this share of training uses crops of this many pixels, around edges
IMAGE_SIZE = 64
KL_WEIGHT = 1e-3


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=4000, output=OUTPUT)
    vae = new_vae().to(device())
    if arguments.resume:
        vae = AutoencoderKL.from_pretrained(arguments.output, low_cpu_mem_usage=False).to(device())
        for part in (vae.encoder, vae.quant_conv):  # trains the decoder only: latents of a flow model stay valid
            part.requires_grad_(False)
    else:
        start_as_identity(vae, ("conv2", "to_out.0"))
        steady_last_norm(vae)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0, weight_decay=0.01)
    images, losses = image_batches(arguments.seed, BATCH, IMAGE_SIZE), []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 2e-4 if arguments.resume else 7e-4, step, progress)
        pixels = next(images)
        losses.append(train_step(vae, optimizer, busy_crops(pixels, CROP) if progress < CROPPED else pixels))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        if step % 400 == 399:
            report(vae, num=60)
            save(vae, arguments.output)
    if not arguments.resume:
        standardize_latents(vae, arguments.seed)
    save(vae, arguments.output)
    report(AutoencoderKL.from_pretrained(arguments.output, low_cpu_mem_usage=False).to(device()), num=300)


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
    )


@torch.no_grad()
def steady_last_norm(vae: AutoencoderKL) -> None:
    """Give each group of the last norm two image channels and two constants, 4 and -4.

    The norm divides by the spread of the whole image. With image channels alone, little of a flat color would remain.
    With the constants, the norm is nearly linear from the first step on.
    """
    widen, norm = vae.decoder.up_blocks[-1].resnets[0].conv_shortcut, vae.decoder.conv_norm_out
    for offset, constant in ((2, 4.0), (3, -4.0)):
        widen.weight[offset::4] = 0
        widen.bias[offset::4] = constant
    norm.weight[0::4] = norm.weight[1::4] = 8**0.5


def train_step(vae: AutoencoderKL, optimizer: torch.optim.Optimizer, pixels_BCHW: torch.Tensor) -> float:
    with mixed_precision():
        posterior = vae.encode(pixels_BCHW).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    num_latents = posterior.mean[0].numel()
    loss = reconstruction_loss(decoded, pixels_BCHW) + KL_WEIGHT * posterior.kl().float().mean() / num_latents
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, seed: int) -> None:
    """Give each latent channel mean 0 and the same standard deviation, and store its inverse as scaling_factor.

    The 1x1 convolutions before and after the latents absorb the change, so no image changes. Rectified flow starts from
    unit noise, and works best if its targets have the same variance.
    """
    batches = itertools.islice(image_batches(seed + 1, BATCH, IMAGE_SIZE), 1000 // BATCH)
    latents = torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches])
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    spread = deviation.mean()
    gain = spread / deviation
    vae.quant_conv.weight[:4] *= gain.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
    vae.quant_conv.bias[4:] += 2 * gain.log()  # the second half of the channels is log-variance
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(dim=1)
    vae.post_quant_conv.weight /= gain.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=round(1 / spread.item(), 5))
    print(f"latent means {mean.tolist()} spreads {deviation.tolist()}, scaling_factor {vae.config.scaling_factor}")


@torch.no_grad()
def report(vae: AutoencoderKL, num: int) -> None:
    """Print the share of reconstructed held-out drawings that the judge accepts."""
    rng = random.Random("report")
    for name, scenes in (("single", held_out_singles(1, num)), ("pair", held_out_pairs(1, num))):
        chunks = [scenes[start : start + 20] for start in range(0, num, 20)]
        right = []
        for chunk in chunks:
            latents = vae.encode(draw_batch(chunk, rng, IMAGE_SIZE)).latent_dist.mean
            right.append(share_right(vae.decode(latents).sample, chunk))
        print(f"reconstructions of held-out {name} scenes right: {sum(right) / len(right):.1%}", flush=True)


def save(vae: AutoencoderKL, folder: Path) -> None:
    """Write the diffusers folder, in bfloat16."""
    rounded = new_vae()
    rounded.load_state_dict(vae.state_dict())
    rounded.register_to_config(scaling_factor=vae.config.scaling_factor, force_upcast=True)
    rounded.bfloat16().save_pretrained(folder)


if __name__ == "__main__":
    main()
