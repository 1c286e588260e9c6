"""Which rows are condemned, how many failures it takes, and when the rows are not to blame."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from workflows.dispatch.bisection import MAX_FAILURES, MAX_FAILURES_IN_A_ROW, Halving, NotTheRowsError, RowRange


def search(num_rows: int, ends_actor: Callable[[RowRange], bool], *, has_witness: bool = False) -> tuple[Halving, int]:
    """Halve a shard to the end. An actor is proven by rows that were rendered, or by rows of other shards."""
    halving, num_failures = Halving(num_rows), 0
    while (rows := halving.next_range) is not None:
        if ends_actor(rows):
            num_failures += 1
            halving.failed(rows, "it died", is_proven=has_witness or halving.good_range is not None)
        else:
            halving.passed(rows, list(range(rows.start, rows.stop)))
    return halving, num_failures


def holds(*poison: int) -> Callable[[RowRange], bool]:
    return lambda rows: any(rows.start <= row < rows.stop for row in poison)


def rendered_rows(halving: Halving) -> list[int]:
    return [row for rows in halving.rendered for row in rows]


@pytest.mark.parametrize("num_rows", [2, 3, 7, 256])
def test_one_poisonous_row_is_found_wherever_it_stands_and_the_others_are_rendered_once(num_rows: int) -> None:
    for poison in range(num_rows):
        halving, num_failures = search(num_rows, holds(poison))

        assert list(halving.condemned) == [poison]
        assert rendered_rows(halving) == [row for row in range(num_rows) if row != poison]
        # One failure a level, the row itself twice; one more where nothing was known to be good at first.
        assert num_failures <= (num_rows - 1).bit_length() + 2


def test_the_reason_says_how_it_was_found() -> None:
    halving, _ = search(4, holds(2))

    assert halving.condemned == {2: "ended its actor 2 times, by itself, where other prompts were fine: it died"}


def test_several_poisonous_rows_are_found() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        num_rows, num_poison = chance.randint(2, 256), chance.randint(0, 3)
        poison = chance.sample(range(num_rows), min(num_poison, num_rows - 1))

        halving, _ = search(num_rows, holds(*poison))

        assert sorted(halving.condemned) == sorted(poison)
        assert rendered_rows(halving) == [row for row in range(num_rows) if row not in poison]


def test_a_cluster_that_renders_nothing_condemns_nobody() -> None:
    with pytest.raises(NotTheRowsError, match="8 tries in a row failed and no other row was rendered"):
        search(256, lambda rows: True)


def test_a_shard_of_one_row_is_condemned_only_where_rows_of_other_shards_were_fine() -> None:
    halving, num_failures = search(1, holds(0), has_witness=True)
    assert (list(halving.condemned), num_failures) == ([0], 2)

    with pytest.raises(NotTheRowsError, match="2 tries in a row failed"):
        search(1, holds(0))


def test_a_machine_on_which_even_good_rows_fail_is_no_place_to_search_on_and_no_row_is_blamed() -> None:
    halving = Halving(1)
    halving.failed(halving.next_range, "it died", is_proven=True)

    for _ in range(MAX_FAILURES_IN_A_ROW - 2):
        halving.witness_failed()

    with pytest.raises(NotTheRowsError, match="8 tries in a row"):
        halving.witness_failed()
    assert halving.condemned == {}


def test_a_shard_full_of_poison_is_given_up_after_a_stated_number_of_failures() -> None:
    num_failures = 0

    def ends_actor(rows: RowRange) -> bool:
        nonlocal num_failures
        num_failures += 1
        return True

    with pytest.raises(NotTheRowsError, match=f"{MAX_FAILURES} row ranges of it failed"):
        search(256, ends_actor, has_witness=True)
    assert num_failures == MAX_FAILURES


def test_a_failure_on_an_actor_that_never_rendered_is_no_strike_against_a_row() -> None:
    halving = Halving(2)
    first, second = halving.next_range, RowRange(start=1, stop=2)
    halving.failed(first, "it died", is_proven=False)
    halving.passed(second, "pixels")
    halving.failed(first, "it died", is_proven=True)
    assert halving.condemned == {}

    halving.failed(first, "it died again", is_proven=True)

    assert list(halving.condemned) == [0]


def test_rows_that_were_rejected_as_they_were_read_prove_nothing() -> None:
    halving = Halving(2)
    halving.passed(RowRange(start=0, stop=1), "no pixels", has_images=False)
    assert halving.good_range is None

    for _ in range(3):
        halving.failed(RowRange(start=1, stop=2), "it died", is_proven=False)
    with pytest.raises(NotTheRowsError, match="4 tries in a row"):
        halving.failed(RowRange(start=1, stop=2), "it died", is_proven=False)


def test_a_row_that_failed_by_itself_is_better_tried_elsewhere() -> None:
    halving = Halving(1)
    assert not halving.is_at_a_row

    halving.failed(halving.next_range, "it died", is_proven=True, where="node a")

    assert (halving.is_at_a_row, halving.last_failed_on) == (True, "node a")


def test_what_was_lost_with_its_node_is_rendered_again_and_the_condemned_stay_condemned() -> None:
    halving, _ = search(4, holds(1))
    before = rendered_rows(halving)

    halving.forget_rendered()
    while (rows := halving.next_range) is not None:
        halving.passed(rows, list(range(rows.start, rows.stop)))

    assert rendered_rows(halving) == before
    assert list(halving.condemned) == [1]


def test_a_fluke_costs_a_cut_and_no_row() -> None:
    flukes = iter([True, True])

    halving, _ = search(8, lambda rows: next(flukes, False))

    assert halving.condemned == {}
    assert rendered_rows(halving) == list(range(8))
    assert MAX_FAILURES_IN_A_ROW > 2
