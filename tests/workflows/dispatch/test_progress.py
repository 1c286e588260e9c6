"""The counters of a running job: images done, throughput and ETA."""

from __future__ import annotations

import pytest

from workflows.dispatch.progress import Progress, Slot


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def write(progress: Progress, slot: Slot, num_images: int, num_bytes: int = 0) -> None:
    """Count a batch that is rendered now."""
    progress.images_are_written(slot, num_images, num_bytes, round(progress.clock() * 1e6))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_images_of_this_run_and_earlier_runs_and_rejected_images_are_done() -> None:
    assert Progress(num_images_total=100, num_images_before=40, num_images=5, num_rejected=2).num_done == 47


def test_a_committed_shard_corrects_the_total() -> None:
    """In a sweep of three weights, two rows ask for four images instead of six if one has its own weight."""
    progress = Progress(num_images_total=12, num_images=3)

    progress.shard_is_committed(num_expected=6, num_images=3, num_rejected=1)

    assert (progress.num_images_total, progress.num_shards, progress.num_done) == (10, 1, 4)


def test_the_throughput_is_of_this_run_and_starts_with_its_first_batch(clock: Clock) -> None:
    progress = Progress(num_images_total=100, num_images_before=40, clock=clock)
    slots = [progress.add_slot(), progress.add_slot()]
    clock.now = 400.0  # a model that takes five minutes to load
    progress.actor_is_ready(slots[0], "cpu", "node")
    clock.now = 405.0
    progress.actor_is_ready(slots[1], "cpu", "node")
    clock.now = 410.0
    write(progress, slots[0], 15)
    write(progress, slots[1], 5)
    assert progress.images_per_second is None

    clock.now = 420.0
    write(progress, slots[0], 20)

    assert progress.num_actors == 2
    assert progress.images_per_second == 2.0
    assert progress.eta_seconds == 10.0
    assert [slot.images_per_second for slot in slots] == [35 / 20, 5 / 15]


def test_a_pool_that_grew_raises_the_current_throughput_within_minutes(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100_000, clock=clock))
    for _ in range(100):
        clock.now += 10
        write(progress, progress.slots[0], 10)
    for _ in range(30):
        clock.now += 10
        write(progress, progress.slots[0], 80)

    assert progress.images_per_second == pytest.approx(3390 / 1290)
    assert progress.images_per_second_now == pytest.approx(8.0, rel=0.05)


def test_images_of_a_failed_attempt_do_not_count(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100, clock=clock))
    clock.now += 10
    write(progress, progress.slots[0], 30, 3000)
    progress.images_are_taken_back(progress.slots[0], 20)

    assert (progress.num_images, progress.slots[0].num_images) == (10, 10)
    assert progress.images_per_second_now == 1.0


def test_there_is_no_eta_before_the_first_image(clock: Clock) -> None:
    progress = Progress(num_images_total=100, clock=clock)
    assert progress.images_per_second is None
    assert progress.eta_seconds is None

    ready(progress)
    clock.now += 5

    assert progress.eta_seconds is None


def test_rejected_images_do_not_raise_the_throughput_but_need_no_more_time(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=100, num_rejected=50, clock=clock))
    clock.now += 10
    write(progress, progress.slots[0], 10)

    assert progress.images_per_second_now == 1.0
    assert progress.eta_seconds == 40.0


def test_more_images_than_expected_leave_an_eta_of_zero(clock: Clock) -> None:
    progress = ready(Progress(num_images_total=10, clock=clock))
    clock.now += 10
    write(progress, progress.slots[0], 12)

    assert progress.eta_seconds == 0.0


def test_a_slot_is_rendering_while_it_holds_a_shard_and_idle_otherwise() -> None:
    slot = Progress().add_slot()
    states = [slot.state]
    slot.is_started()
    states.append(slot.state)
    slot.is_ready("cpu", "node")
    states.append(slot.state)
    with slot.holds_shard():
        with slot.holds_shard():
            states.append(slot.state)
        states.append(slot.state)
    states.append(slot.state)

    assert states == ["starting", "loading", "idle", "rendering", "rendering", "idle"]


def test_the_last_slots_wait_while_room_is_lacking_and_the_others_start() -> None:
    progress = ready(Progress())
    for _ in range(3):
        progress.add_slot()

    progress.room_is_lacking(2)
    before = [slot.state for slot in progress.slots]
    progress.room_is_lacking(1)  # a node has joined

    assert before == ["idle", "starting", "waiting", "waiting"]
    assert [slot.state for slot in progress.slots] == ["idle", "starting", "starting", "waiting"]


def test_a_slot_is_lost_until_its_actor_is_reslotd_and_the_reason_is_the_last_trouble() -> None:
    progress = ready(Progress())
    slot = progress.slots[0]
    with slot.holds_shard():
        progress.actor_is_lost(slot, "the node went away")

    assert (slot.state, slot.trouble, progress.num_actors) == ("lost", "the node went away", 0)
    assert (progress.last_trouble, progress.num_actors_lost) == ("the node went away", 1)

    slot.is_requested()
    progress.actor_is_ready(slot, "cpu", "other")
    assert (slot.state, progress.num_actors, progress.num_actors_lost) == ("idle", 1, 1)


def ready(progress: Progress) -> Progress:
    """The progress with one actor that has loaded its model."""
    progress.actor_is_ready(progress.add_slot(), "cpu", "node")
    return progress
