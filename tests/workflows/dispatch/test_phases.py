"""The phases of a run, by a clock that the test sets."""

from __future__ import annotations

import pytest

from workflows.dispatch.phases import Phases


def test_the_times_of_a_phase_add_up_and_the_order_is_that_of_the_run() -> None:
    times = iter([0.0, 2.0, 5.0, 9.0, 10.0, 11.0])
    phases = Phases(clock=lambda: next(times))
    for phase in ("planning", "report", "planning"):
        with phases.timed(phase):
            pass
    assert list(phases.seconds.items()) == [("planning", 3.0), ("report", 4.0)]


def test_a_phase_that_fails_does_not_count() -> None:
    phases = Phases()
    with pytest.raises(ValueError, match="no"), phases.timed("checking"):
        raise ValueError("no")
    assert phases.seconds == {}


def test_no_phase_is_negative() -> None:
    phases = Phases()
    phases.add("writing", -0.1)
    assert phases.seconds == {"writing": 0.0}
