"""When an actor counts as stuck: after a silence that is too long compared with the waits so far."""

from __future__ import annotations

import pytest

from workflows.dispatch.watch import MIN_STALL_SECONDS, STALL_FACTOR, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_actor_that_is_silent_for_too_long_is_named_with_its_silence(clock: Clock) -> None:
    watchdog = Watchdog(1, clock)

    with watchdog.listening("a"):
        clock.now = 59
        assert watchdog.silent() == {}
        clock.now = 61
        assert watchdog.silent() == {"a": 61}


def test_a_silence_that_no_call_waits_through_does_not_count(clock: Clock) -> None:
    watchdog = Watchdog(1, clock)
    with watchdog.listening("a"):
        clock.now = 50
    clock.now = 1000

    with watchdog.listening("a"):
        clock.now += 59
        assert watchdog.silent() == {}


def test_a_batch_for_one_shard_resets_the_silence_for_the_others(clock: Clock) -> None:
    watchdog = Watchdog(1, clock)

    with watchdog.listening("a"):
        with watchdog.listening("a"):
            clock.now = 50
        clock.now = 100
        assert watchdog.silent() == {}
        clock.now = 111
        assert watchdog.silent() == {"a": 61}


def test_a_failed_call_does_not_reset_the_silence(clock: Clock) -> None:
    watchdog = Watchdog(1, clock)

    def fail() -> None:
        with watchdog.listening("a"):
            clock.now = 50
            raise ValueError("lost")

    with watchdog.listening("a"):
        with pytest.raises(ValueError, match="lost"):
            fail()
        clock.now = 61
        assert watchdog.silent() == {"a": 61}


def test_by_default_the_limit_follows_the_longest_wait_for_a_batch(clock: Clock) -> None:
    watchdog = Watchdog(None, clock)
    assert watchdog.stall_seconds == MIN_STALL_SECONDS

    with watchdog.listening("a"):
        clock.now = 100

    assert watchdog.stall_seconds == 100 * STALL_FACTOR
