"""Who gets which shard, when a job is done, and which of the shards that an actor held is blamed for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from workflows.plan import Shard
from workflows.prompts import PromptFile
from workflows.shard_queue import ShardFailedError, ShardQueue

PROMPTS = PromptFile(url="/prompts.parquet", name="prompts.parquet", version="00000000", num_bytes=1, num_rows=100)
SECONDS = 10  # until a test that hangs is failed


def shard(number: int) -> Shard:
    return Shard(file=PROMPTS, start=number, stop=number + 1)


def queue_of(num_shards: int, *, max_tries: int = 3) -> ShardQueue:
    return ShardQueue((shard(number) for number in range(num_shards)), max_tries)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), SECONDS))


async def still_waits(task: asyncio.Task) -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


def test_each_shard_is_handed_out_once_and_the_end_is_told_to_all() -> None:
    async def test() -> None:
        queue = queue_of(2)
        assert [await queue.take("a"), await queue.take("b")] == [shard(0), shard(1)]
        waiting = asyncio.create_task(queue.take("a"))
        done = asyncio.create_task(queue.wait_until_done())
        assert await still_waits(waiting)

        await queue.finish(shard(0))
        assert await still_waits(waiting)  # the other may come back yet
        assert await still_waits(done)
        await queue.finish(shard(1))

        assert await waiting is None
        await done

    run(test)


def test_waiting_for_the_end_takes_no_shard_from_those_who_render() -> None:
    async def test() -> None:
        queue = queue_of(3)
        done = asyncio.create_task(queue.wait_until_done())
        assert await still_waits(done)

        taken = [await queue.take("a") for _ in range(3)]

        assert sorted(one.start for one in taken) == [0, 1, 2]

    run(test)


def test_a_shard_that_came_back_goes_to_whoever_waits() -> None:
    async def test() -> None:
        queue = queue_of(1)
        await queue.take("a")
        waiting = asyncio.create_task(queue.take("b"))
        assert await still_waits(waiting)

        await queue.put_back(shard(0), "a reason")

        assert await waiting == shard(0)

    run(test)


def test_the_last_try_fails_the_job_with_the_shard_and_the_reason() -> None:
    async def test() -> None:
        queue = queue_of(1, max_tries=2)
        await queue.take("a")
        await queue.put_back(shard(0), "a first reason")
        await queue.take("a")

        with pytest.raises(ShardFailedError, match=r"shard prompts-.*-000000001 failed 2 times, .*: a last reason"):
            await queue.put_back(shard(0), "a last reason")

    run(test)


def test_a_shard_that_is_released_is_charged_no_try() -> None:
    async def test() -> None:
        queue = queue_of(1, max_tries=1)
        for _ in range(3):
            assert await queue.take("a") == shard(0)
            await queue.release(shard(0))

        assert await queue.take("a") == shard(0)

    run(test)


def test_an_actor_holds_one_shard_at_a_time_that_failed_before() -> None:
    async def test() -> None:
        queue = queue_of(3)
        first = [await queue.take("a"), await queue.take("a")]
        for one in first:
            await queue.put_back(one, "the actor ended")

        retried = await queue.take("b")
        assert retried == shard(0)
        assert await queue.take("b") == shard(2)  # a fresh one beside it
        waiting = asyncio.create_task(queue.take("b"))
        assert await still_waits(waiting)
        assert await queue.take("c") == shard(1)
        await queue.put_back(shard(1), "the actor ended")
        assert await still_waits(waiting)
        await queue.finish(retried)

        assert await waiting == shard(1)

    run(test)


async def live(queue: ShardQueue, name: str, poison: Shard, finished: list[Shard]) -> None:
    """An actor that holds three shards at once and that ends, with all it holds, when one of them is the poison."""
    ended = asyncio.Event()

    async def hold_shards() -> None:
        while not ended.is_set() and (one := await queue.take(name)) is not None:
            if one == poison:
                ended.set()
            await asyncio.sleep(0.01)
            if ended.is_set():
                await queue.put_back(one, "the actor ended")
            else:
                finished.append(one)
                await queue.finish(one)

    await asyncio.gather(*(hold_shards() for _ in range(3)))


@pytest.mark.parametrize("poison", [shard(0), shard(4), shard(7)])
def test_a_shard_that_ends_every_actor_it_meets_is_the_one_that_is_blamed(poison: Shard) -> None:
    async def test() -> None:
        queue, finished = queue_of(8, max_tries=2), []
        await live(queue, "first actor", poison, finished)

        with pytest.raises(ShardFailedError, match=poison.id):
            await live(queue, "second actor", poison, finished)

    run(test)
