"""Classifier-free guidance: the formula that both families share. https://arxiv.org/abs/2207.12598

Janus applies it to logits, JanusFlow to velocities. A weight of 1.0 means unguided: the unconditional prediction
cancels out, so the image needs no unconditional row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNGUIDED = 1.0
CFG_WEIGHT_MIN, CFG_WEIGHT_MAX = 1.0, 10.0
_TIME_TOLERANCE = 1e-9  # a step at an end of the guidance interval is inside it


def guide(cond: torch.Tensor, uncond: torch.Tensor, cfg_weight_B: torch.Tensor) -> torch.Tensor:
    """`uncond + w * (cond - uncond)` with one weight per row.

    `cond` and `uncond` have shape [B, ...] and `cfg_weight_B` has shape [B]. It equals
    `w * cond - (w - 1) * uncond`, the form in the JanusFlow paper.
    """
    weight = cfg_weight_B.view(-1, *[1] * (cond.ndim - 1))
    return uncond + weight * (cond - uncond)


def is_guided(cfg_weight: float) -> bool:
    """Whether an image of this weight needs an unconditional row."""
    return cfg_weight != UNGUIDED


def is_inside(cfg_interval: tuple[float, float] | None, t: float) -> bool:
    """Whether guidance acts at `t`, the fraction of the sampling that is done (code i of n, or step i of n: i/n).

    Both ends belong to the interval, so [0, 1] is the same as None.
    """
    if cfg_interval is None:
        return True
    start, end = cfg_interval
    return start - _TIME_TOLERANCE <= t <= end + _TIME_TOLERANCE


def check_cfg_weight(cfg_weight: float, *, allow_any: bool = False) -> None:
    """Raise ValueError unless `cfg_weight` is a finite number in the range the models were tuned for."""
    if not math.isfinite(cfg_weight):
        raise ValueError(f"cfg_weight must be a finite number, got {cfg_weight}")
    if not allow_any and not CFG_WEIGHT_MIN <= cfg_weight <= CFG_WEIGHT_MAX:
        raise ValueError(
            f"cfg_weight must be from {CFG_WEIGHT_MIN:g} to {CFG_WEIGHT_MAX:g} (1 is unguided), got {cfg_weight:g}; "
            "sampling.allow_any_cfg_weight: true lifts the limits"
        )
