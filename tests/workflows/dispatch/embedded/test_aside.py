"""A coroutine runs next to the caller's event loop; the caller's first Ctrl-C drains it, the second cancels it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from workflows.dispatch.drain import DrainedError
from workflows.dispatch.embedded.aside import run_aside


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


async def commit_1_of_2_shards(drained: asyncio.Event) -> None:
    """Work that a Ctrl-C drains."""
    press_ctrl_c()
    await drained.wait()
    raise DrainedError("interrupted: this run committed 1 of 2 shards")


def test_it_runs_while_an_event_loop_runs_in_the_callers_thread() -> None:
    said: list[str] = []

    async def main() -> None:
        await asyncio.sleep(0)
        said.append("worked")

    async def notebook() -> None:
        run_aside(main, lambda: None)

    asyncio.run(notebook())

    assert said == ["worked"]


def test_its_error_is_raised_as_it_is() -> None:
    error = ValueError("a bug")

    async def main() -> None:
        raise error

    with pytest.raises(ValueError, match="a bug") as raised:
        run_aside(main, lambda: None)
    assert raised.value is error


def test_the_first_ctrl_c_drains_and_is_raised_with_what_was_done() -> None:
    drained = asyncio.Event()

    with pytest.raises(KeyboardInterrupt, match="committed 1 of 2 shards"):
        run_aside(lambda: commit_1_of_2_shards(drained), drained.set)


def test_a_ctrl_c_is_not_lost_if_the_work_ends_all_the_same() -> None:
    drained = asyncio.Event()

    async def main() -> None:
        press_ctrl_c()
        await drained.wait()

    with pytest.raises(KeyboardInterrupt, match="after the last shard was committed"):
        run_aside(main, drained.set)


def test_an_error_while_draining_is_raised() -> None:
    drained = asyncio.Event()

    async def main() -> None:
        press_ctrl_c()
        await drained.wait()
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_aside(main, drained.set)


def test_the_second_ctrl_c_cancels() -> None:
    said: list[str] = []

    async def main() -> None:
        press_ctrl_c()
        try:
            await asyncio.Event().wait()
        finally:
            said.append("cancelled")

    with pytest.raises(KeyboardInterrupt, match="interrupted twice"):
        run_aside(main, press_ctrl_c)
    assert said == ["cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_drains_inside_asyncio_run_whose_handler_would_only_cancel_the_caller() -> None:
    drained = asyncio.Event()

    async def notebook() -> None:
        run_aside(lambda: commit_1_of_2_shards(drained), drained.set)

    with pytest.raises(KeyboardInterrupt, match="committed 1 of 2 shards"):
        asyncio.run(notebook())


def test_a_ctrl_c_at_any_moment_leaves_no_coroutine_behind() -> None:
    signal.signal(signal.SIGINT, lambda *_: None)  # one that comes before or after
    for number in range(40):
        drained, running = asyncio.Event(), threading.Event()

        async def main(drained: asyncio.Event = drained, running: threading.Event = running) -> None:
            running.set()
            try:
                await asyncio.wait_for(drained.wait(), 0.01)
            except TimeoutError:
                pass
            finally:
                running.clear()

        timer = threading.Timer(number / 8_000, press_ctrl_c)
        timer.start()
        with suppress(KeyboardInterrupt):
            run_aside(main, drained.set)
        timer.join()
        assert not running.is_set()
