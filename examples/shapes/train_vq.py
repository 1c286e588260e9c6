"""Trains the code model of janus-shapes: images of 64x64 pixels to 8x8 codes and back.

The patch of each code is collected from drawings (`tokenizing`). Training learns the codebook entries, and the decoder
from entries to pixels. Run from the project's root: `python -m examples.shapes.train_vq`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from actors.janus.config import VQShape
from actors.janus.decoder import Decoder
from examples.shapes.images import busy_crops, draw_batch, image_batches, reconstruction_loss, share_right
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
CROPPED, CROP = 0.85, 32  # this share of training uses crops of this many pixels, around edges
# Residual blocks that training skips (second convolution zero): they cost most of the time and help little.
IDLE_BLOCKS = ((0, 2), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2))


class CodeDecoder(nn.Module):
    """Codes [B, H/8 * W/8] to images [B, 3, H, W]: the part of the code model that the checkpoint contains."""

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
        """Give each group of the last norm one image channel and two constants, 4 and -4.

        The norm divides by the spread of the whole image. With image channels alone, only the signs of flat colors
        would remain. With the constants, the norm is nearly linear from the first step on.
        """
        widen, norm = self.decoder.conv_blocks[-1].res[0], self.decoder.norm_out
        for offset, constant in ((1, 4.0), (2, -4.0)):
            widen.weight[offset::3] = 0
            widen.bias[offset::3] = constant
        norm.weight[0::3] = 4 * (2 / 3) ** 0.5


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=3000, output=OUTPUT)
    patches = collect_patches(torch.cat(list(first_images(arguments.seed, 4000))), NUM_CODES)
    model = CodeDecoder(first_embedding(patches).clone()).to(device())
    if arguments.resume:
        saved = torch.load(arguments.output, weights_only=True)
        patches = saved["patches"].to(device())
        model.load_state_dict(without_idle_blocks(saved["decoder"], model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, weight_decay=0)
    images, losses = image_batches(arguments.seed, BATCH, IMAGE_SIZE), []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 2e-4 if arguments.resume else 7e-4, step, progress)
        pixels = next(images)
        pixels = busy_crops(pixels, CROP) if progress < CROPPED else pixels
        losses.append(train_step(model, patches, optimizer, pixels))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        if step % 400 == 0:
            save(arguments.output, model, patches)
            report(model, patches, num=40)
    save(arguments.output, model, patches)
    report(model, patches, num=300)


def train_step(
    model: CodeDecoder, patches_VP: torch.Tensor, optimizer: torch.optim.Optimizer, pixels_BCHW: torch.Tensor
) -> float:
    with mixed_precision():
        decoded = model(to_codes(pixels_BCHW, patches_VP))
    loss = reconstruction_loss(decoded, pixels_BCHW)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def first_images(seed: int, num: int):
    return itertools.islice(image_batches(seed + 1, BATCH, IMAGE_SIZE), num // BATCH)


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
def report(model: CodeDecoder, patches_VP: torch.Tensor, num: int) -> None:
    """Print the share of reconstructed held-out drawings that the judge accepts, and the number of codes they use."""
    rng = random.Random("report")
    used: set[int] = set()
    for name, scenes in (("single", held_out_singles(1, num)), ("pair", held_out_pairs(1, num))):
        right = []
        for start in range(0, num, 20):
            chunk = scenes[start : start + 20]
            codes = to_codes(draw_batch(chunk, rng, IMAGE_SIZE), patches_VP)
            used.update(codes.flatten().tolist())
            right.append(share_right(model(codes), chunk))
        print(f"reconstructions of held-out {name} scenes right: {sum(right) / len(right):.1%}", flush=True)
    print(f"codes used by these images: {len(used)} of {NUM_CODES}", flush=True)


def save(path: Path, model: CodeDecoder, patches_VP: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"patches": patches_VP.cpu(), "decoder": full_state(model)}, path)


def without_idle_blocks(state: dict[str, torch.Tensor], model: CodeDecoder) -> dict[str, torch.Tensor]:
    """The inverse of `full_state`."""
    wanted = model.state_dict()
    short = {name if name in wanted else name.replace(".nin_shortcut", ""): value for name, value in state.items()}
    return {name: value for name, value in short.items() if name in wanted}


def full_state(model: CodeDecoder) -> dict[str, torch.Tensor]:
    """The weights, with the idle blocks written out as zero convolutions, which add nothing."""
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    for level, block in IDLE_BLOCKS:  # a shortcut that replaced its block gets its own name back
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
