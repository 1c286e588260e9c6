"""When an actor counts as stuck: after a silence that is too long compared with the waits so far. And what is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.toy_job import make_job
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.progress import Progress
from workflows.dispatch.watch import MIN_STALL_SECONDS, STALL_FACTOR, Watch, Watchdog
from workflows.job import RenderJob


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


def test_what_the_actors_wait_for_is_said_again_after_all_were_lost(tmp_path: Path) -> None:
    class FullCluster(Cluster):
        def describe_room(self, job: RenderJob, num_cpus: float) -> str:
            return "no actor has room"

    progress, pool = Progress(), SimpleNamespace(actors=set(), num_cpus=1.0)
    watch = Watch(make_job(tmp_path, tmp_path / "out"), FullCluster(), progress, None, pool, Watchdog(None), 1.0)
    first, second = progress.add_slot(), progress.add_slot()

    def is_told(num_lacking: int) -> bool:
        progress.room_is_lacking(num_lacking)
        progress.note("")
        asyncio.run(watch._tell_room())
        return progress.last_trouble == "no actor has room"

    assert not is_told(1)  # the other one is starting its process
    assert is_told(2)
    assert not is_told(2)
    first.is_ready("cpu", "node")
    pool.actors.add("an actor")
    assert not is_told(1)
    pool.actors.clear()
    first.is_lost("its node has died")
    assert is_told(1)
    assert second.state == "waiting"
