"""Which actor gets which shard, when a job is done, and which of an actor's shards is blamed for its death."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest

from workflows.dispatch.shard_queue import LATE_SECONDS, MIN_FINISHED, Attempt, ShardFailedError, ShardQueue
from workflows.plan import Shard
from workflows.prompts import PromptFile

PROMPTS = PromptFile(url="/prompts.parquet", name="prompts.parquet", version="00000000", num_bytes=1, num_rows=100)
SECONDS = 10  # until a test that hangs fails


def shard(number: int) -> Shard:
    return Shard(file=PROMPTS, start=number, stop=number + 1)


def queue_of(num_shards: int, *, max_tries: int = 3, **changes: Any) -> ShardQueue:
    return ShardQueue((shard(number) for number in range(num_shards)), max_tries, **changes)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), SECONDS))


async def still_waits(task: asyncio.Task) -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


async def take(queue: ShardQueue, actor: Hashable) -> Attempt:
    attempt = await queue.take(actor)
    assert attempt is not None
    return attempt


def test_each_shard_is_handed_out_once_and_all_learn_of_the_end() -> None:
    async def test() -> None:
        queue = queue_of(2)
        first, second = await take(queue, "a"), await take(queue, "b")
        assert [first.shard, second.shard] == [shard(0), shard(1)]
        waiting = asyncio.create_task(queue.take("a"))
        done = asyncio.create_task(queue.wait_until_done())
        assert await still_waits(waiting)

        assert await queue.finish(first) == []
        assert await still_waits(waiting)  # the other shard can still return
        assert await still_waits(done)
        assert await queue.finish(second) == []

        assert await waiting is None
        await done

    run(test)


def test_waiting_for_the_end_takes_no_shard_from_the_actors() -> None:
    async def test() -> None:
        queue = queue_of(3)
        done = asyncio.create_task(queue.wait_until_done())
        assert await still_waits(done)

        taken = [await take(queue, "a") for _ in range(3)]

        assert sorted(one.shard.start for one in taken) == [0, 1, 2]

    run(test)


def test_a_shard_that_returned_goes_to_an_actor_that_waits() -> None:
    async def test() -> None:
        queue = queue_of(1)
        attempt = await take(queue, "a")
        waiting = asyncio.create_task(queue.take("b"))
        assert await still_waits(waiting)

        await queue.put_back(attempt, "a reason")

        assert (await waiting).shard == shard(0)

    run(test)


def test_the_last_failed_try_fails_the_job_with_the_shard_and_the_reason() -> None:
    async def test() -> None:
        queue = queue_of(1, max_tries=2)
        await queue.put_back(await take(queue, "a"), "a first reason")
        attempt = await take(queue, "a")

        with pytest.raises(ShardFailedError, match=r"shard prompts-.*-000000001 failed 2 times, .*: a last reason"):
            await queue.put_back(attempt, "a last reason")

    run(test)


def test_a_shard_that_may_be_skipped_is_skipped_and_named() -> None:
    async def test() -> None:
        queue = queue_of(2, max_tries=1)
        first, second = await take(queue, "a"), await take(queue, "a")

        await queue.put_back(first, "a reason", "skip")
        await queue.finish(second)

        assert await queue.take("a") is None
        await queue.wait_until_done()
        assert queue.skipped == {shard(0).id: "1 times, the last time with: a reason"}

    run(test)


def test_a_released_shard_uses_up_no_try() -> None:
    async def test() -> None:
        queue = queue_of(1, max_tries=1)
        for _ in range(3):
            await queue.release(await take(queue, "a"))

        assert (await take(queue, "a")).shard == shard(0)

    run(test)


def test_an_actor_holds_at_most_one_shard_that_failed_before() -> None:
    async def test() -> None:
        queue = queue_of(3)
        for one in [await take(queue, "a"), await take(queue, "a")]:
            await queue.put_back(one, "the actor died")

        retried = await take(queue, "b")
        assert retried.shard == shard(0)
        assert (await take(queue, "b")).shard == shard(2)  # a fresh one along with it
        waiting = asyncio.create_task(queue.take("b"))
        assert await still_waits(waiting)
        others = await take(queue, "c")
        assert others.shard == shard(1)
        await queue.put_back(others, "the actor died")
        assert await still_waits(waiting)
        await queue.finish(retried)

        assert (await waiting).shard == shard(1)

    run(test)


async def live(queue: ShardQueue, name: str, bad: Shard, finished: list[Shard]) -> None:
    """An actor that holds three shards at once and dies with all of them when it takes the bad one."""
    died = asyncio.Event()

    async def hold_shards() -> None:
        while not died.is_set() and (one := await queue.take(name)) is not None:
            if one.shard == bad:
                died.set()
            await asyncio.sleep(0.01)
            if died.is_set():
                await queue.put_back(one, "the actor died")
            else:
                finished.append(one.shard)
                await queue.finish(one)

    await asyncio.gather(*(hold_shards() for _ in range(3)))


@pytest.mark.parametrize("bad", [shard(0), shard(4), shard(7)])
def test_the_shard_that_kills_every_actor_it_meets_is_blamed(bad: Shard) -> None:
    async def test() -> None:
        queue, finished = queue_of(8, max_tries=2), []
        await live(queue, "first actor", bad, finished)

        with pytest.raises(ShardFailedError, match=bad.id):
            await live(queue, "second actor", bad, finished)

    run(test)


# ---- alone -----------------------------------------------------------------------------------------------------------


async def isolate(queue: ShardQueue, actor: str) -> Shard:
    """Let the next shard fail until it must be bisected; the queue allows one try."""
    attempt = await take(queue, actor)
    await queue.put_back(attempt, "the actor died", "alone")
    return attempt.shard


def test_a_shard_that_is_bisected_has_an_actor_to_itself() -> None:
    async def test() -> None:
        queue = queue_of(4, max_tries=1)
        isolated = await isolate(queue, "lost")

        alone = await take(queue, "a")
        assert (alone.shard, alone.is_alone) == (isolated, True)
        waiting = asyncio.create_task(queue.take("a"))
        assert await still_waits(waiting)
        assert (await take(queue, "b")).shard == shard(1)  # the other actors continue
        await queue.finish(alone)

        assert (await waiting).shard == shard(2)

    run(test)


def test_one_busy_actor_finishes_its_shards_for_it_and_the_others_continue() -> None:
    async def test() -> None:
        queue = queue_of(9, max_tries=1)
        of_a, of_b = await take(queue, "a"), await take(queue, "b")
        isolated = await isolate(queue, "lost")

        waiting = asyncio.create_task(queue.take("a"))
        assert await still_waits(waiting)
        assert not (await take(queue, "b")).is_alone
        await queue.finish(of_b)
        assert not (await take(queue, "b")).is_alone
        await queue.finish(of_a)

        alone = await waiting
        assert (alone.shard, alone.is_alone) == (isolated, True)

    run(test)


def test_a_lost_actor_keeps_no_shard_waiting() -> None:
    async def test() -> None:
        queue = queue_of(9, max_tries=1)
        await take(queue, "a")
        await take(queue, "b")
        isolated = await isolate(queue, "lost")
        of_a = asyncio.create_task(queue.take("a"))
        assert await still_waits(of_a)

        await queue.leave("a")

        assert await of_a is None
        of_b = asyncio.create_task(queue.take("b"))
        assert await still_waits(of_b)  # now this actor finishes its shards first
        assert (await take(queue, "fresh")).shard == isolated

    run(test)


def test_an_actor_that_may_not_take_it_continues_with_other_shards() -> None:
    async def test() -> None:
        queue = queue_of(3, max_tries=1, may_take_alone=lambda shard, actor: actor != "same node")
        isolated = await isolate(queue, "lost")

        assert (await take(queue, "same node")).shard == shard(1)
        assert (await take(queue, "other node")).shard == isolated

    run(test)


def test_a_shard_that_returns_from_bisection_is_alone_again() -> None:
    async def test() -> None:
        queue = queue_of(1, max_tries=1)
        await isolate(queue, "lost")

        await queue.release(await take(queue, "a"))

        assert (await take(queue, "b")).is_alone

    run(test)


# ---- stragglers ------------------------------------------------------------------------------------------------------


async def late_queue(clock: Clock) -> tuple[ShardQueue, Attempt]:
    """A queue whose shards are all finished except one, which is far behind."""
    queue = queue_of(MIN_FINISHED + 1, clock=clock)
    late = await take(queue, "slow")
    for _ in range(MIN_FINISHED):
        attempt = await take(queue, "quick")
        clock.now += 1
        await queue.finish(attempt)
    clock.now += LATE_SECONDS
    return queue, late


def test_an_idle_actor_also_gets_a_straggler_and_the_first_to_finish_wins() -> None:
    async def test() -> None:
        queue, late = await late_queue(Clock())
        waiting, own = asyncio.create_task(queue.take("quick")), asyncio.create_task(queue.take("slow"))
        assert await still_waits(waiting)

        await queue.offer_late()

        copy = await waiting
        assert copy.shard == late.shard
        assert await still_waits(own)  # not to the actor that is late with it
        assert await queue.finish(copy) == [late]
        assert await queue.finish(late) is None
        await queue.put_back(late, "cancelled")
        await queue.release(late)
        await queue.wait_until_done()

    run(test)


def test_a_shard_is_late_after_three_times_the_median_duration() -> None:
    async def test() -> None:
        clock = Clock()
        queue = queue_of(5, clock=clock)
        for _ in range(MIN_FINISHED):
            attempt = await take(queue, "quick")
            clock.now += 100
            await queue.finish(attempt)
        await take(queue, "slow")
        await take(queue, "quick")
        idle = asyncio.create_task(queue.take("idle"))

        clock.now += 299
        await queue.offer_late()
        assert await still_waits(idle)
        clock.now += 2
        await queue.offer_late()

        assert (await idle).shard == shard(3)

    run(test)


def test_a_second_attempt_that_fails_leaves_the_first_one_running() -> None:
    async def test() -> None:
        queue, late = await late_queue(Clock())
        await queue.offer_late()
        copy = await take(queue, "quick")

        await queue.put_back(copy, "the actor died")

        waiting = asyncio.create_task(queue.take("quick"))
        assert await still_waits(waiting)
        await queue.finish(late)
        assert await waiting is None

    run(test)


def test_a_shard_has_at_most_two_attempts() -> None:
    async def test() -> None:
        queue, _ = await late_queue(Clock())
        await queue.offer_late()
        await take(queue, "quick")
        await queue.offer_late()

        assert await still_waits(asyncio.create_task(queue.take("idle")))

    run(test)


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_a_closed_queue_hands_out_nothing_and_is_done_once_the_shards_in_flight_are() -> None:
    async def test() -> None:
        queue = queue_of(3)
        attempt = await take(queue, "a")
        done = asyncio.create_task(queue.wait_until_done())

        await queue.close()

        assert await queue.take("b") is None
        assert await still_waits(done)
        await queue.finish(attempt)
        await done

    run(test)
