"""The numbers of a running job: what counts as done, the rate, and the time that is left."""

from __future__ import annotations

import pytest

from workflows import progress as progress_module
from workflows.progress import Progress


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock.monotonic)
    return clock


def test_what_is_done_is_rendered_or_rejected_now_or_before() -> None:
    assert Progress(num_images_total=100, num_images_before=40, num_images=5, num_rejected=2).num_done == 47


def test_what_rows_did_not_ask_for_after_all_is_not_waited_for() -> None:
    """In a sweep of three weights, two rows of which one has a weight of its own: four images and not six."""
    progress = Progress(num_images_total=12, num_images=3)

    progress.shard_is_committed(num_expected=6, num_images=3, num_rejected=1)

    assert (progress.num_images_total, progress.num_shards, progress.num_done) == (10, 1, 4)


def test_the_rate_counts_this_runs_images_since_the_first_actor_was_ready(clock: Clock) -> None:
    progress = Progress(num_images_total=100, num_images_before=40)
    clock.now = 400.0  # a model that takes five minutes to load
    progress.painter_is_ready()
    clock.now = 405.0
    progress.painter_is_ready()
    clock.now = 410.0
    progress.num_images = 20

    assert progress.num_painters == 2
    assert progress.images_per_second == 2.0
    assert progress.eta_seconds == 20.0


def test_there_is_no_eta_before_the_first_image(clock: Clock) -> None:
    progress = Progress(num_images_total=100)
    assert progress.images_per_second == 0.0
    assert progress.eta_seconds is None

    progress.painter_is_ready()
    clock.now += 5

    assert progress.eta_seconds is None


def test_rejected_images_are_not_counted_as_speed_but_are_no_work_that_is_left(clock: Clock) -> None:
    progress = Progress(num_images_total=100, num_rejected=50)
    progress.painter_is_ready()
    clock.now += 10
    progress.num_images = 10

    assert progress.images_per_second == 1.0
    assert progress.eta_seconds == 40.0


def test_no_time_is_left_when_there_is_more_than_was_expected(clock: Clock) -> None:
    progress = Progress(num_images_total=10)
    progress.painter_is_ready()
    clock.now += 10
    progress.num_images = 12

    assert progress.eta_seconds == 0.0
