"""Trains the code model of janus-shapes: 64x64 pictures to 8x8 codes and back.

What a code stands for is collected from drawings (`tokenizing`); what is learned is each code's entry in the codebook
and the decoder that paints from the entries. Run from the project's root: `python -m examples.shapes.train_vq`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from actors.checkpoint.shape import VQShape
from actors.janus.decoder import Decoder
from examples.shapes.pictures import busy_crops, drawn, painting_loss, picture_batches, share_right
from examples.shapes.schedule import (
    device,
    mixed_precision,
    parse_arguments,
    set_learning_rate,
    start_as_identity,
    training_steps,
)
from examples.shapes.tokenizing import CODE_DIM, PATCH, collect_patches, first_embedding, to_codes
from examples.shapes.world import held_out_pairs, held_out_singles

IMAGE_SIZE = 64
NUM_CODES, Z_CHANNELS, CHANNELS, CH_MULT = 1280, 64, 32, (3, 1, 2, 2)
OUTPUT = Path("build/shapes/vq.pt")
BATCH = 16
CROPPED, CROP = 0.85, 32  # this part of the training sees crops of so many pixels, where the edges are
# Residual blocks that training leaves at the identity (second convolution zero): most of the cost, little of the use.
IDLE_BLOCKS = ((0, 2), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2))


class Painter(nn.Module):
    """Codes [B, H/8 * W/8] to pictures [B, 3, H, W]: what is shipped of the code model."""

    def __init__(self, embedding_VC: torch.Tensor) -> None:
        super().__init__()
        self.post_quant_conv = nn.Conv2d(CODE_DIM, Z_CHANNELS, 1)
        self.decoder = Decoder(shape())
        for level, block in IDLE_BLOCKS:
            residual = self.decoder.conv_blocks[level].res
            residual[block] = getattr(residual[block], "nin_shortcut", nn.Identity())
        start_as_identity(self, ("conv2", "proj_out"))
        self._steady_last_norm()
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(NUM_CODES, CODE_DIM, _weight=embedding_VC)})

    def forward(self, codes_BN: torch.Tensor) -> torch.Tensor:
        side = int(codes_BN.shape[1] ** 0.5)
        entries_BNC = F.normalize(self.quantize["embedding"](codes_BN), dim=-1)
        return self.decoder(self.post_quant_conv(entries_BNC.transpose(1, 2).unflatten(2, (side, side)).contiguous()))

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


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=3000, output=OUTPUT)
    patches = collect_patches(torch.cat(list(first_pictures(arguments.seed, 4000))), NUM_CODES)
    painter = Painter(first_embedding(patches).clone()).to(device())
    if arguments.resume:
        saved = torch.load(arguments.output, weights_only=True)
        patches = saved["patches"].to(device())
        painter.load_state_dict(without_idle_blocks(saved["painter"], painter))
    optimizer = torch.optim.AdamW(painter.parameters(), lr=0, weight_decay=0)
    pictures, losses = picture_batches(arguments.seed, BATCH, IMAGE_SIZE), []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 2e-4 if arguments.resume else 7e-4, step, progress)
        pixels = next(pictures)
        pixels = busy_crops(pixels, CROP) if progress < CROPPED else pixels
        losses.append(train_step(painter, patches, optimizer, pixels))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        if step % 400 == 0:
            save(arguments.output, painter, patches)
            report(painter, patches, num=40)
    save(arguments.output, painter, patches)
    report(painter, patches, num=300)


def train_step(
    painter: Painter, patches_VP: torch.Tensor, optimizer: torch.optim.Optimizer, pixels_BCHW: torch.Tensor
) -> float:
    with mixed_precision():
        painted = painter(to_codes(pixels_BCHW, patches_VP))
    loss = painting_loss(painted, pixels_BCHW)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(painter.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def first_pictures(seed: int, num: int):
    return itertools.islice(picture_batches(seed + 1, BATCH, IMAGE_SIZE), num // BATCH)


def shape() -> VQShape:
    return VQShape(
        codebook_size=NUM_CODES,
        code_dim=CODE_DIM,
        channels=CHANNELS,
        channel_multipliers=CH_MULT,
        z_channels=Z_CHANNELS,
        grid_size=IMAGE_SIZE // PATCH,
    )


@torch.no_grad()
def report(painter: Painter, patches_VP: torch.Tensor, num: int) -> None:
    """Prints how many reconstructions of held-out drawings the judge finds right, and how many codes they use."""
    rng = random.Random("report")
    used: set[int] = set()
    for name, scenes in (("single", held_out_singles(1, num)), ("pair", held_out_pairs(1, num))):
        right = []
        for start in range(0, num, 20):
            chunk = scenes[start : start + 20]
            codes = to_codes(drawn(chunk, rng, IMAGE_SIZE), patches_VP)
            used.update(codes.flatten().tolist())
            right.append(share_right(painter(codes), chunk))
        print(f"reconstructions of held-out {name} scenes right: {sum(right) / len(right):.1%}", flush=True)
    print(f"codes used by these pictures: {len(used)} of {NUM_CODES}", flush=True)


def save(path: Path, painter: Painter, patches_VP: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"patches": patches_VP.cpu(), "painter": full_state(painter)}, path)


def without_idle_blocks(state: dict[str, torch.Tensor], painter: Painter) -> dict[str, torch.Tensor]:
    """The inverse of `full_state`."""
    wanted = painter.state_dict()
    short = {name if name in wanted else name.replace(".nin_shortcut", ""): value for name, value in state.items()}
    return {name: value for name, value in short.items() if name in wanted}


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
