"""Guidance: the formula by hand, and which weights are taken."""

from __future__ import annotations

import pytest
import torch

from actors.guidance import check_cfg_weight, guide, is_guided


def test_guidance_follows_the_formula_with_one_weight_per_row() -> None:
    cond = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    uncond = torch.tensor([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0]])

    guided = guide(cond, uncond, torch.tensor([1.0, 5.0, 2.5]))

    assert guided.tolist() == [[1.0, 2.0], [5.0, -6.0], [2.5, -1.0]]


def test_rows_of_any_shape_are_guided() -> None:
    cond, uncond = torch.full((2, 4, 3, 3), 2.0), torch.full((2, 4, 3, 3), 1.0)

    guided = guide(cond, uncond, torch.tensor([3.0, 7.0]))

    assert guided.shape == (2, 4, 3, 3)
    assert guided[0].unique().tolist() == [4.0]
    assert guided[1].unique().tolist() == [8.0]


def test_the_formula_of_the_janusflow_paper_is_the_same() -> None:
    """https://arxiv.org/abs/2411.07975: w v_cond - (w - 1) v_uncond"""
    generator = torch.Generator().manual_seed(0)
    cond, uncond = (torch.randn(8, 100, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.linspace(1, 10, 8, dtype=torch.float64)

    torch.testing.assert_close(guide(cond, uncond, weight), weight[:, None] * cond - (weight[:, None] - 1) * uncond)


def test_a_weight_of_one_gives_the_conditional_prediction_and_needs_no_other() -> None:
    cond = torch.tensor([[3.0, -5.0]])

    assert guide(cond, torch.zeros_like(cond), torch.tensor([1.0])).tolist() == cond.tolist()
    assert not is_guided(1.0)
    assert is_guided(1.0001)
    assert is_guided(0.0)


@pytest.mark.parametrize("weight", [1, 1.0, 2.5, 10])
def test_weights_from_1_to_10_are_accepted(weight: float) -> None:
    check_cfg_weight(weight)


@pytest.mark.parametrize("weight", [0, 0.999, -1, 10.001, 11])
def test_other_weights_are_refused_unless_the_limits_are_lifted(weight: float) -> None:
    with pytest.raises(
        ValueError, match=rf"cfg_weight must be from 1 to 10 \(1 is unguided\), got {weight:g}; sampling"
    ):
        check_cfg_weight(weight)
    check_cfg_weight(weight, allow_any=True)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_always_refused(weight: float) -> None:
    for allow_any in (False, True):
        with pytest.raises(ValueError, match=rf"cfg_weight must be a finite number, got {weight}"):
            check_cfg_weight(weight, allow_any=allow_any)
