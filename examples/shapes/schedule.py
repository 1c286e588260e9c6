"""Shared by the training scripts: arguments, progress by steps or time, learning rate, initialization."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

CHECKPOINTS = Path(__file__).parents[2] / "actors" / "checkpoint" / "bundled"


def parse_arguments(description: str, *, steps: int, output: Path) -> argparse.Namespace:
    """`--steps` (reproducible) or `--minutes` (as far as the machine gets), `--resume`, `--seed` and `--output`."""
    parser = argparse.ArgumentParser(description=description)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=steps, help="training steps (default: %(default)s)")
    length.add_argument("--minutes", type=float, help="stop after this time instead of after a number of steps")
    parser.add_argument("--resume", action="store_true", help="start from the weights in --output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=output, help="folder to write (default: %(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    return arguments


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_steps(arguments: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Yield (step, progress); progress goes from 0 to 1, by steps or by time."""
    started, step = time.monotonic(), 0
    while True:
        if arguments.minutes is None:
            progress = step / arguments.steps if arguments.steps else 1.0
        else:
            progress = (time.monotonic() - started) / (60 * arguments.minutes)
        if progress >= 1:
            return
        yield step, progress
        step += 1


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, progress: float) -> None:
    """Warm up for 100 steps, then follow half a cosine down to a hundredth of the peak."""
    warm = min(1.0, (step + 1) / 100)
    for group in optimizer.param_groups:
        group["lr"] = peak * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def start_as_identity(model: torch.nn.Module, last_convolutions: tuple[str, ...]) -> None:
    """Initialize each layer to keep the spread of its input, and each residual branch to zero.

    `last_convolutions` are the possible names of a branch's last layer. Without this, a deep stack of convolutions
    fades its input out at first, and learns only the mean image for a long time.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            torch.nn.init.zeros_(layer.bias)
            if name.endswith(last_convolutions):
                torch.nn.init.zeros_(layer.weight)


def mixed_precision() -> torch.autocast:
    """bfloat16 products with float32 weights, if the processor supports them: twice as fast."""
    has_bfloat16 = device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=has_bfloat16)
