"""Best of n is computed from the scores and verdicts of all images of a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.best_of import Cost, Judged, points_of, separation

COST = Cost(render_seconds=2.0, look_seconds=0.5, device="cpu")
JUDGED = [
    Judged(kind="single", is_right=np.array([False, True, False, True]), scores=np.array([0.1, 0.9, 0.6, 0.4])),
    Judged(kind="pair", is_right=np.array([False, False, True, False]), scores=np.array([0.2, 0.2, 0.9, 0.1])),
]


def test_best_of_n_takes_the_highest_score_of_each_group_of_n() -> None:
    one, two, four = points_of("m", 5.0, JUDGED, COST)

    assert [point.n for point in (one, two, four)] == [1, 2, 4]
    assert (one.single, one.pair, one.any_right) == (0.5, 0.25, 0.375)
    assert (two.single, two.pair, two.any_right) == (0.5, 0.5, 0.75)
    assert (four.single, four.pair, four.any_right) == (1.0, 1.0, 1.0)


def test_an_image_costs_its_candidates_and_best_of_1_costs_no_look() -> None:
    assert [point.seconds for point in points_of("m", 5.0, JUDGED, COST)] == pytest.approx([2.0, 5.0, 10.0])


def test_the_first_of_equal_scores_is_chosen() -> None:
    tie = Judged(kind="single", is_right=np.array([True, False]), scores=np.array([0.5, 0.5]))
    other = Judged(kind="pair", is_right=np.array([False, True]), scores=np.array([0.5, 0.5]))

    _, two = points_of("m", 5.0, [tie, other], COST)

    assert (two.single, two.pair) == (1.0, 0.0)


def test_the_separation_counts_the_pairs_that_the_scores_order() -> None:
    assert separation(JUDGED).startswith("the score orders 85.7% of 7 pairs")
    assert separation([Judged(kind="single", is_right=np.array([True]), scores=np.array([0.5]))]).startswith(
        "no prompt"
    )
