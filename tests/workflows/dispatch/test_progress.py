"""The numbers of a running job: what counts as done, the rate, and the time that is left."""

from __future__ import annotations

import pytest

from workflows.dispatch import progress as progress_module
from workflows.dispatch.progress import Progress


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
    places = [progress.add_place(), progress.add_place()]
    clock.now = 400.0  # a model that takes five minutes to load
    progress.painter_is_ready(places[0], "cpu", "node")
    clock.now = 405.0
    progress.painter_is_ready(places[1], "cpu", "node")
    clock.now = 410.0
    progress.images_are_written(places[0], 15)
    progress.images_are_written(places[1], 5)

    assert progress.num_painters == 2
    assert progress.images_per_second == 2.0
    assert progress.eta_seconds == 20.0
    assert [place.images_per_second for place in places] == [1.5, 1.0]


def test_a_pool_that_grew_shows_in_the_eta_after_minutes_and_not_in_the_rate_of_the_run(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100_000))
    for _ in range(100):
        clock.now += 10
        progress.images_are_written(progress.places[0], 10)
    for _ in range(30):
        clock.now += 10
        progress.images_are_written(progress.places[0], 80)

    assert progress.images_per_second == pytest.approx(3400 / 1300)
    assert progress.images_per_second_now == pytest.approx(8.0, rel=0.05)


def test_images_of_a_failed_attempt_count_not(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100))
    clock.now += 10
    progress.images_are_written(progress.places[0], 30, 3000)
    progress.images_are_written(progress.places[0], -20)

    assert (progress.num_images, progress.places[0].num_images) == (10, 10)
    assert progress.images_per_second_now == 1.0


def test_there_is_no_eta_before_the_first_image(clock: Clock) -> None:
    progress = Progress(num_images_total=100)
    assert progress.images_per_second == 0.0
    assert progress.eta_seconds is None

    ready(progress)
    clock.now += 5

    assert progress.eta_seconds is None


def test_rejected_images_are_not_counted_as_speed_but_are_no_work_that_is_left(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100, num_rejected=50))
    clock.now += 10
    progress.images_are_written(progress.places[0], 10)

    assert progress.images_per_second == 1.0
    assert progress.eta_seconds == 40.0


def test_no_time_is_left_when_there_is_more_than_was_expected(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=10))
    clock.now += 10
    progress.images_are_written(progress.places[0], 12)

    assert progress.eta_seconds == 0.0


def test_an_actor_paints_while_it_holds_a_shard_and_is_idle_between() -> None:
    place = Progress().add_place()
    states = [place.state]
    place.is_started()
    states.append(place.state)
    place.is_ready("cpu", "node")
    states.append(place.state)
    with place.holds_shard():
        with place.holds_shard():
            states.append(place.state)
        states.append(place.state)
    states.append(place.state)

    assert states == ["starting", "loading", "idle", "painting", "painting", "idle"]


def test_of_the_actors_asked_for_the_last_wait_where_room_is_lacking_and_start_where_there_is_some() -> None:
    progress = ready(Progress())
    for _ in range(3):
        progress.add_place()

    progress.room_is_lacking(2)
    before = [place.state for place in progress.places]
    progress.room_is_lacking(1)  # a node has joined

    assert before == ["idle", "starting", "waiting", "waiting"]
    assert [place.state for place in progress.places] == ["idle", "starting", "starting", "waiting"]


def test_a_lost_actor_is_lost_until_it_is_replaced_and_its_loss_is_the_last_trouble() -> None:
    progress = ready(Progress())
    place = progress.places[0]
    with place.holds_shard():
        progress.painter_is_lost(place, "the node went away")

    assert (place.state, place.trouble, progress.num_painters) == ("lost", "the node went away", 0)
    assert (progress.last_trouble, progress.num_painters_lost) == ("the node went away", 1)

    place.is_asked_for()
    progress.painter_is_ready(place, "cpu", "other")
    assert (place.state, progress.num_painters, progress.num_painters_lost) == ("idle", 1, 1)


def ready(progress: Progress) -> Progress:
    """With one actor that has loaded its model."""
    progress.painter_is_ready(progress.add_place(), "cpu", "node")
    return progress
