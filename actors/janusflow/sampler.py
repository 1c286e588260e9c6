"""Solvers of `dz/dt = velocity(z, t)` from t = 0 to t = 1. They do not know images, prompts or guidance.

Every row of a batch has its own number of steps, so `t` and `dt` are vectors. A row that is finished leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from actors.device import send
from actors.janusflow.config import TIME_SCALE

# z_B has one row per batch entry and any further dimensions; t_B and dt_B are float64, on the CPU.
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Step = Callable[[Velocity, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeGrid:
    """The times at which a row's steps begin, in [0, 1], and the length of each step."""

    times: tuple[float, ...]
    dt: float


def even_grid(num_steps: int) -> TimeGrid:
    """`num_steps` equal steps from 0 to 1."""
    return TimeGrid(times=tuple(i / num_steps for i in range(num_steps)), dt=1 / num_steps)


def demo_grid(num_steps: int) -> TimeGrid:
    """The reference demo's time grid: time and step length rounded to bfloat16 (1/30 becomes 0.033447)."""

    def rounded(number: float) -> float:
        return torch.tensor(number).bfloat16().item()

    times = tuple(rounded(i / num_steps * TIME_SCALE) / TIME_SCALE for i in range(num_steps))
    return TimeGrid(times=times, dt=rounded(1 / num_steps))


def solve(
    velocity_of: Callable[[list[int]], Velocity], z_B: torch.Tensor, grids: Sequence[TimeGrid], step: Step
) -> torch.Tensor:
    """Integrate every row of `z_B` over its own time grid; returns a tensor like `z_B`.

    `velocity_of(rows)` is the velocity field of these rows alone, in this order. It is called again only after rows
    have left the batch.
    """
    z_B = z_B.clone()
    rows: list[int] = []
    for i in range(max(len(grid.times) for grid in grids)):
        active = [row for row, grid in enumerate(grids) if i < len(grid.times)]
        if active != rows:
            rows, velocity = active, velocity_of(active)
            index = send(torch.tensor(rows), z_B.device)
        t_B = torch.tensor([grids[row].times[i] for row in rows], dtype=torch.float64)
        dt_B = torch.tensor([grids[row].dt for row in rows], dtype=torch.float64)
        z_B[index] = step(velocity, z_B[index], t_B, dt_B)
    return z_B


def euler(velocity: Velocity, z_B: torch.Tensor, t_B: torch.Tensor, dt_B: torch.Tensor) -> torch.Tensor:
    """One evaluation per step, error of order 1. The reference's solver."""
    return _move(z_B, dt_B, velocity(z_B, t_B))


def heun(velocity: Velocity, z_B: torch.Tensor, t_B: torch.Tensor, dt_B: torch.Tensor) -> torch.Tensor:
    """The mean of the velocities at both ends of an Euler step: two evaluations, error of order 2."""
    v_B = velocity(z_B, t_B)
    v_end_B = velocity(_move(z_B, dt_B, v_B), t_B + dt_B)
    return _move(z_B, dt_B, (v_B + v_end_B) / 2)


def midpoint(velocity: Velocity, z_B: torch.Tensor, t_B: torch.Tensor, dt_B: torch.Tensor) -> torch.Tensor:
    """The velocity in the middle of an Euler step: two evaluations, error of order 2."""
    half_B = dt_B / 2
    return _move(z_B, dt_B, velocity(_move(z_B, half_B, velocity(z_B, t_B)), t_B + half_B))


SOLVERS: dict[str, Step] = {"euler": euler, "heun": heun, "midpoint": midpoint}
DEFAULT_SOLVER = "euler"


def _move(z_B: torch.Tensor, dt_B: torch.Tensor, v_B: torch.Tensor) -> torch.Tensor:
    return z_B + send(dt_B.to(z_B.dtype), z_B.device).view(-1, *[1] * (z_B.ndim - 1)) * v_B
