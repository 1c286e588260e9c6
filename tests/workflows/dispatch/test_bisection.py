"""Which rows are rejected, how many failures that takes, and when no row is at fault."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from workflows.dispatch.bisection import Bisection, BisectionLimits, NotTheRowsError, RowRange

LIMITS = BisectionLimits()


def search(
    num_rows: int, kills_actor: Callable[[RowRange], bool], *, has_witness: bool = False
) -> tuple[Bisection, int]:
    """Bisect a shard to the end. Rendered rows, or rows of other shards, prove that an actor works."""
    bisection, num_failures = Bisection(num_rows), 0
    while (rows := bisection.next_range) is not None:
        if kills_actor(rows):
            num_failures += 1
            bisection.failed(rows, "it died", is_proven=has_witness or bisection.good_range is not None)
        else:
            bisection.passed(rows, list(range(rows.start, rows.stop)))
    return bisection, num_failures


def holds(*bad: int) -> Callable[[RowRange], bool]:
    return lambda rows: any(rows.start <= row < rows.stop for row in bad)


def rendered_rows(bisection: Bisection) -> list[int]:
    return [row for rows in bisection.rendered for row in rows]


@pytest.mark.parametrize("num_rows", [2, 3, 7, 256])
def test_one_bad_row_is_found_at_any_position_and_the_others_are_rendered_once(num_rows: int) -> None:
    for bad in range(num_rows):
        bisection, num_failures = search(num_rows, holds(bad))

        assert list(bisection.rejected) == [bad]
        assert rendered_rows(bisection) == [row for row in range(num_rows) if row != bad]
        # One failure per level, two of the row by itself; one more if no row is known to be good at first.
        assert num_failures <= (num_rows - 1).bit_length() + 2


def test_the_reason_says_how_the_row_was_found() -> None:
    bisection, _ = search(4, holds(2))

    assert bisection.rejected == {2: "failed 2 times when rendered by itself, where other prompts succeeded: it died"}


def test_several_bad_rows_are_found() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        num_rows, num_bad = chance.randint(2, 256), chance.randint(0, 3)
        bad = chance.sample(range(num_rows), min(num_bad, num_rows - 1))

        bisection, _ = search(num_rows, holds(*bad))

        assert sorted(bisection.rejected) == sorted(bad)
        assert rendered_rows(bisection) == [row for row in range(num_rows) if row not in bad]


def test_a_cluster_that_renders_nothing_rejects_no_row() -> None:
    with pytest.raises(NotTheRowsError, match="8 tries in a row failed and no other row was rendered"):
        search(256, lambda rows: True)


def test_the_row_of_a_single_row_shard_is_rejected_only_if_rows_of_other_shards_succeed() -> None:
    bisection, num_failures = search(1, holds(0), has_witness=True)
    assert (list(bisection.rejected), num_failures) == ([0], 2)

    with pytest.raises(NotTheRowsError, match="2 tries in a row failed"):
        search(1, holds(0))


def test_a_machine_on_which_even_good_rows_fail_rejects_no_row() -> None:
    bisection = Bisection(1)
    bisection.failed(bisection.next_range, "it died", is_proven=True)

    for _ in range(LIMITS.max_failures_in_a_row - 2):
        bisection.witness_failed()

    with pytest.raises(NotTheRowsError, match="8 tries in a row"):
        bisection.witness_failed()
    assert bisection.rejected == {}


def test_a_shard_full_of_bad_rows_is_given_up_after_a_given_number_of_failures() -> None:
    num_failures = 0

    def kills_actor(rows: RowRange) -> bool:
        nonlocal num_failures
        num_failures += 1
        return True

    with pytest.raises(NotTheRowsError, match=f"{LIMITS.max_failures} row ranges of it failed"):
        search(256, kills_actor, has_witness=True)
    assert num_failures == LIMITS.max_failures


def test_a_failure_of_an_actor_that_never_rendered_does_not_count_against_a_row() -> None:
    bisection = Bisection(2)
    first, second = bisection.next_range, RowRange(start=1, stop=2)
    bisection.failed(first, "it died", is_proven=False)
    bisection.passed(second, "pixels")
    bisection.failed(first, "it died", is_proven=True)
    assert bisection.rejected == {}

    bisection.failed(first, "it died again", is_proven=True)

    assert list(bisection.rejected) == [0]


def test_rows_that_were_rejected_when_they_were_read_prove_nothing() -> None:
    bisection = Bisection(2)
    bisection.passed(RowRange(start=0, stop=1), "no pixels", has_images=False)
    assert bisection.good_range is None

    for _ in range(3):
        bisection.failed(RowRange(start=1, stop=2), "it died", is_proven=False)
    with pytest.raises(NotTheRowsError, match="4 tries in a row"):
        bisection.failed(RowRange(start=1, stop=2), "it died", is_proven=False)


def test_a_row_that_failed_by_itself_is_next_tried_on_another_node() -> None:
    bisection = Bisection(1)
    assert not bisection.is_at_a_row

    bisection.failed(bisection.next_range, "it died", is_proven=True, where="node a")

    assert (bisection.is_at_a_row, bisection.last_failed_on) == (True, "node a")


def test_images_lost_with_their_node_are_rendered_again_and_rejected_rows_stay_rejected() -> None:
    bisection, _ = search(4, holds(1))
    before = rendered_rows(bisection)

    bisection.forget_rendered()
    while (rows := bisection.next_range) is not None:
        bisection.passed(rows, list(range(rows.start, rows.stop)))

    assert rendered_rows(bisection) == before
    assert list(bisection.rejected) == [1]


def test_a_single_chance_failure_rejects_no_row() -> None:
    flukes = iter([True, True])

    bisection, _ = search(8, lambda rows: next(flukes, False))

    assert bisection.rejected == {}
    assert rendered_rows(bisection) == list(range(8))
    assert LIMITS.max_failures_in_a_row > 2
