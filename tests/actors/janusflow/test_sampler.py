"""The solvers against equations with a known solution; the batch of rows with a step count each."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from actors.janusflow.sampler import SOLVERS, Step, TimeGrid, Velocity, euler, even_grid, heun, midpoint, solve


def integrate(velocity: Velocity, z: torch.Tensor, num_steps: int, step: Step) -> torch.Tensor:
    return solve(lambda rows: velocity, z, [even_grid(num_steps)] * len(z), step)


def over_time(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return t.to(z).view(-1, *[1] * (z.ndim - 1))


def swing(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """dz/dt = cos(2t) z, whose solution is z(0) exp(sin(2t) / 2)."""
    return torch.cos(2 * over_time(t, z)) * z


# ---- order of convergence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_the_error_falls_with_the_order_of_the_solver(name: str, order: int) -> None:
    z0 = torch.linspace(-2, 2, 6, dtype=torch.float64).view(2, 3)
    exact = z0 * math.exp(math.sin(2) / 2)

    counts = [16, 32, 64, 128]
    errors = [(integrate(swing, z0, n, SOLVERS[name]) - exact).abs().max().item() for n in counts]
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]

    assert slopes == pytest.approx([order] * 3, abs=0.15)
    assert slopes[-1] == pytest.approx(order, abs=0.04)


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", SOLVERS.values(), ids=SOLVERS)
def test_one_step_integrates_a_straight_flow(step: Step) -> None:
    z0, z1 = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    arrived = integrate(lambda z, t: z1 - z0, z0, 1, step)

    torch.testing.assert_close(arrived, z1)


def test_euler_sums_the_velocity_at_the_beginning_of_each_step() -> None:
    arrived = integrate(lambda z, t: 2 * over_time(t, z).expand_as(z), torch.zeros(1, 2, dtype=torch.float64), 8, euler)

    assert arrived.tolist() == [[1 - 1 / 8] * 2]  # sum of 2 i / n / n


@pytest.mark.parametrize("step", [heun, midpoint])
def test_second_order_solvers_are_exact_where_the_velocity_is_linear_in_time(step: Step) -> None:
    arrived = integrate(lambda z, t: 2 * over_time(t, z).expand_as(z), torch.zeros(1, 2, dtype=torch.float64), 8, step)

    assert arrived.tolist() == [[1.0] * 2]


@pytest.mark.parametrize(("step", "tolerance"), [(euler, 2e-2), (heun, 1e-4), (midpoint, 1e-4)])
def test_integrating_backwards_returns_to_the_start(step: Step, tolerance: float) -> None:
    z0 = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    arrived = integrate(swing, z0, 200, step)
    back = integrate(lambda z, t: -swing(z, 1 - t), arrived, 200, step)

    assert (arrived - z0).abs().max() > 0.1
    torch.testing.assert_close(back, z0, rtol=0, atol=tolerance)


# ---- rows with a step count each -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", SOLVERS.values(), ids=SOLVERS)
def test_a_row_gets_the_same_result_as_alone(step: Step) -> None:
    counts = [5, 1, 30, 5, 2]
    z0 = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(2))

    together = solve(lambda rows: swing, z0, [even_grid(n) for n in counts], step)

    for row, count in enumerate(counts):
        alone = integrate(swing, z0[row : row + 1], count, step)
        assert torch.equal(together[row], alone[0])
    assert not torch.equal(together[0], integrate(swing, z0[:1], 6, step)[0])


def test_a_finished_row_is_not_computed() -> None:
    seen: list[tuple[list[int], list[float]]] = []

    def velocity_of(rows: list[int]) -> Velocity:
        def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen.append((rows, t.tolist()))
            return torch.zeros_like(z)

        return velocity

    solve(velocity_of, torch.zeros(3, 1), [even_grid(n) for n in (2, 4, 1)], euler)

    assert seen == [
        ([0, 1, 2], [0.0, 0.0, 0.0]),
        ([0, 1], [0.5, 0.25]),
        ([1], [0.5]),
        ([1], [0.75]),
    ]


def test_the_input_latents_are_not_changed() -> None:
    z0 = torch.ones(2, 2)
    solve(lambda rows: swing, z0, [even_grid(3)] * 2, euler)
    assert torch.equal(z0, torch.ones(2, 2))


def test_steps_of_a_grid_may_be_of_another_length_than_its_times_say() -> None:
    grid = TimeGrid(times=(0.0, 0.5), dt=0.75)
    arrived = solve(lambda rows: lambda z, t: torch.ones_like(z), torch.zeros(1, 1), [grid], euler)
    assert arrived.item() == 1.5
