"""A SIGTERM ends the work in order, within a grace period; a second one ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from workflows.dispatch.drain import Drain


def test_without_a_sigterm_the_work_runs_to_its_end() -> None:
    async def test() -> list[str]:
        said: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0.01)
            said.append("worked")

        async def close() -> None:
            said.append("closed")

        await Drain(60).wait_for(work(), close)
        return said

    assert asyncio.run(test()) == ["worked"]


def test_a_sigterm_closes_the_supply_and_the_work_finishes() -> None:
    async def test() -> list[str]:
        said: list[str] = []
        drain, is_closed = Drain(60), asyncio.Event()

        async def work() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await is_closed.wait()
            said.append("worked")

        async def close() -> None:
            said.append("closed")
            is_closed.set()

        with drain.on_sigterm():
            await drain.wait_for(work(), close)
        assert drain.is_requested
        return said

    assert asyncio.run(test()) == ["closed", "worked"]


def test_work_that_exceeds_the_grace_period_is_cancelled() -> None:
    async def test() -> bool:
        was_cancelled = False
        drain = Drain(0.01)
        drain.request()

        async def work() -> None:
            nonlocal was_cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                was_cancelled = True
                raise

        async def close() -> None:
            pass

        await drain.wait_for(work(), close)
        await asyncio.sleep(0)
        return was_cancelled

    assert asyncio.run(test())


def test_an_error_of_the_work_is_raised() -> None:
    async def test() -> None:
        async def work() -> None:
            raise ValueError("a bug")

        await Drain(60).wait_for(work(), asyncio.Event().wait)

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(test())


def test_the_previous_handler_gets_a_second_sigterm_and_one_after_the_block() -> None:
    met: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: met.append(number))

    async def test() -> None:
        with Drain(60).on_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            assert met == []
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        asyncio.run(test())
    finally:
        signal.signal(signal.SIGTERM, old)

    assert met == [signal.SIGTERM, signal.SIGTERM]
