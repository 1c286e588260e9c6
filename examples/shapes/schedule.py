"""What every training program here shares: its arguments, its clock and its learning rate."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

CHECKPOINTS = Path(__file__).parents[2] / "actors" / "checkpoint" / "bundled"


def parse_arguments(description: str, *, steps: int, output: Path) -> argparse.Namespace:
    """`--steps` (the same run every time) or `--minutes` (as far as this machine gets), `--seed` and `--output`."""
    parser = argparse.ArgumentParser(description=description)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=steps, help="training steps (default: %(default)s)")
    length.add_argument("--minutes", type=float, help="stop by the clock instead of after a number of steps")
    parser.add_argument("--resume", action="store_true", help="start from the weights that --output holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=output, help="folder to write (default: %(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    return arguments


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_steps(arguments: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Yields (step, progress) with progress going from 0 to 1, by steps or by the clock."""
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
    """A warm-up of 100 steps, then half a cosine down to a hundredth of the peak."""
    warm = min(1.0, (step + 1) / 100)
    for group in optimizer.param_groups:
        group["lr"] = peak * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def start_as_identity(model: torch.nn.Module, last_convolutions: tuple[str, ...]) -> None:
    """Gives every layer's output the spread of its input, and starts each residual branch at zero.

    `last_convolutions` are the names that a branch's last layer can have. Without this a deep stack of convolutions
    begins by fading its input out, and learns the mean picture for a long time.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            torch.nn.init.zeros_(layer.bias)
            if name.endswith(last_convolutions):
                torch.nn.init.zeros_(layer.weight)


def mixed_precision() -> torch.autocast:
    """bfloat16 products with float32 weights where the processor has them: twice the speed."""
    has_bfloat16 = device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=has_bfloat16)
