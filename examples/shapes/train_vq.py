"""Trains the code model of janus-shapes: 64x64 pictures to 8x8 codes and back.

First an autoencoder with continuous latents of unit length, then k-means over them gives the codebook, then the
decoder learns to paint from the codes. Run from the project's root: `python -m examples.shapes.train_vq`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from actors.model_shape import VQShape
from actors.vq import Decoder
from examples.shapes.pictures import drawn, painting_loss, picture_batches, share_right
from examples.shapes.schedule import device, mixed_precision, parse_arguments, set_learning_rate, start_as_identity, training_steps
from examples.shapes.tokenizing import CODE_DIM, PATCH, PatchEncoder, nearest_codes, spherical_kmeans
from examples.shapes.world import held_out_pairs, held_out_singles

IMAGE_SIZE = 64
NUM_CODES, Z_CHANNELS, CHANNELS, CH_MULT = 1024, 64, 32, (3, 1, 2, 4)
OUTPUT = Path("build/shapes/vq.pt")
BATCH = 8
CONTINUOUS = 0.35  # this part of the training goes to the autoencoder without a codebook
LATENT_NOISE = 0.1  # teaches the decoder the errors that codes will make
# Residual blocks that training leaves at the identity (second convolution zero): most of the cost, little of the use.
IDLE_BLOCKS = ((0, 2), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2))


class Painter(nn.Module):
    """Latents [B, 8, H/16, W/16] to pictures [B, 3, H, W]: the part of the code model that is shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.post_quant_conv = nn.Conv2d(CODE_DIM, Z_CHANNELS, 1)
        self.decoder = Decoder(shape())
        for level, block in IDLE_BLOCKS:
            residual = self.decoder.conv_blocks[level].res
            residual[block] = getattr(residual[block], "nin_shortcut", nn.Identity())
        start_as_identity(self, ("conv2", "proj_out"))
        self._steady_last_norm()

    @torch.no_grad()
    def _steady_last_norm(self) -> None:
        """Gives each group of the last norm one channel of picture and two constants, 4 and -4.

        The norm divides by the spread of the whole picture: of a picture's channels alone it would leave the signs of
        flat colours. Beside the constants it is nearly linear from the first step on.
        """
        widen, norm = self.decoder.conv_blocks[-1].res[0], self.decoder.norm_out
        for offset, constant in ((1, 4.0), (2, -4.0)):
            widen.weight[offset::3] = 0
            widen.bias[offset::3] = constant
        norm.weight[0::3] = 4 * (2 / 3) ** 0.5

    def forward(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latents_BCHW))


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=4000, output=OUTPUT)
    encoder, painter = PatchEncoder().to(device()), Painter().to(device())
    start_as_identity(encoder, ())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *painter.parameters()], lr=0, weight_decay=0.01)
    pictures = picture_batches(arguments.seed, BATCH, IMAGE_SIZE)
    codebook = None
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 1.5e-3, step, progress)
        if codebook is None and progress >= CONTINUOUS:
            codebook = make_codebook(encoder, arguments.seed)
        loss = train_step(encoder, painter, codebook, optimizer, next(pictures))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {loss:.4f}", flush=True)
        if step % 500 == 499 and codebook is not None:
            save(arguments.output, encoder, painter, codebook)
            report(encoder, painter, codebook, num=60)
    save(arguments.output, encoder, painter, codebook)
    report(encoder, painter, codebook, num=300)


def train_step(
    encoder: PatchEncoder,
    painter: Painter,
    codebook_VC: torch.Tensor | None,
    optimizer: torch.optim.Optimizer,
    pixels_BCHW: torch.Tensor,
) -> float:
    """One step. With a codebook the encoder is finished, and only the painter learns."""
    with mixed_precision():
        if codebook_VC is None:
            latents = encoder(pixels_BCHW)
            latents = F.normalize(latents + LATENT_NOISE * torch.randn_like(latents), dim=1)
        else:
            with torch.no_grad():
                latents = quantize(encoder(pixels_BCHW), codebook_VC)
        painted = painter(latents)
    loss = painting_loss(painted, pixels_BCHW)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([*encoder.parameters(), *painter.parameters()], 1.0)
    optimizer.step()
    return loss.item()


def shape() -> VQShape:
    return VQShape(
        codebook_size=NUM_CODES,
        code_dim=CODE_DIM,
        channels=CHANNELS,
        channel_multipliers=CH_MULT,
        z_channels=Z_CHANNELS,
        grid_size=IMAGE_SIZE // PATCH,
    )


def quantize(latents_BCHW: torch.Tensor, codebook_VC: torch.Tensor) -> torch.Tensor:
    codes = nearest_codes(latents_BCHW, codebook_VC)
    return codebook_VC[codes].transpose(1, 2).reshape(latents_BCHW.shape)


@torch.no_grad()
def make_codebook(encoder: PatchEncoder, seed: int) -> torch.Tensor:
    """k-means over the latents of 5,000 training pictures."""
    batches = itertools.islice(picture_batches(seed + 1, BATCH, IMAGE_SIZE), 5_000 // BATCH)
    latents = torch.cat([encoder(pixels).flatten(2).transpose(1, 2).reshape(-1, CODE_DIM).cpu() for pixels in batches])
    return spherical_kmeans(latents, NUM_CODES, torch.Generator().manual_seed(seed)).to(device())


@torch.no_grad()
def report(encoder: PatchEncoder, painter: Painter, codebook_VC: torch.Tensor, num: int) -> None:
    """Prints how many reconstructions of held-out drawings the judge finds right, and how many codes are in use."""
    rng = random.Random("report")
    used: set[int] = set()
    for name, scenes in (("single", held_out_singles(1, num)), ("pair", held_out_pairs(1, num))):
        right = []
        for start in range(0, num, 20):
            chunk = scenes[start : start + 20]
            latents = encoder(drawn(chunk, rng, IMAGE_SIZE))
            used.update(nearest_codes(latents, codebook_VC).flatten().tolist())
            right.append(share_right(painter(quantize(latents, codebook_VC)), chunk))
        print(f"reconstructions of held-out {name} scenes right: {sum(right) / len(right):.1%}", flush=True)
    print(f"codes used by these pictures: {len(used)} of {NUM_CODES}", flush=True)


def save(path: Path, encoder: PatchEncoder, painter: Painter, codebook_VC: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"encoder": encoder.state_dict(), "painter": full_state(painter), "codebook": codebook_VC.cpu()}, path)


def full_state(painter: Painter) -> dict[str, torch.Tensor]:
    """The painter's weights with the idle blocks written out: zero convolutions, so that they add nothing."""
    state = {name: value.cpu() for name, value in painter.state_dict().items()}
    for level, block in IDLE_BLOCKS:  # where a shortcut stood in for its block, it goes back to its own name
        prefix = f"decoder.conv_blocks.{level}.res.{block}."
        for name in ("weight", "bias"):
            if prefix + name in state:
                state[f"{prefix}nin_shortcut.{name}"] = state.pop(prefix + name)
    for name, value in Decoder(shape()).state_dict().items():
        is_scale = "norm" in name and name.endswith("weight")
        state.setdefault(f"decoder.{name}", torch.ones_like(value) if is_scale else torch.zeros_like(value))
    return state


if __name__ == "__main__":
    main()
