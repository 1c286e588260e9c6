"""The lease on an output. It keeps a second run from rendering the same images, which would waste GPU-hours.

Correctness does not depend on it: two runs on one output commit each shard once, with or without a lease.

The lease file with the highest number names the holder. It is created, so that one of many wins, and rewritten every
RENEW_SECONDS. A lease expires once an observer has seen it unchanged for EXPIRE_SECONDS on its own clock; the observer
then creates the next number. Clocks of different machines are never compared.
"""

from __future__ import annotations

import _thread
import ctypes
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Literal

from actors.errors import JobFailure
from workflows.side_work import side_work
from workflows.storage.errors import LASTING_ERRORS, StorageFailure, is_transient, storage_failures
from workflows.storage.holder import Holder, now
from workflows.storage.path import JOB_FILE
from workflows.storage.retry import wait_for_storage
from workflows.storage.store import Storage

RENEW_SECONDS = 10.0
EXPIRE_SECONDS = 45.0  # four renewals in a row did not happen
POLL_SECONDS = 1.0
_LEASE_NAME = re.compile(r"_lease\.(\d+)\.json")

RENDER_ADVICE = (
    "wait until it ends. `janus-batch render` and `janus-batch submit` wait for it with --wait-for-output, or render "
    "at the same time with --ignore-lease: no image is lost or doubled, but GPU-hours may be wasted"
)

# What to do if another run holds the output: refuse at once, wait until it ends, or ignore the lease.
WhenHeld = Literal["refuse", "wait", "ignore"]


class OutputInUseError(JobFailure):
    """Another run is rendering into this output or scoring it, or has taken it over from this run."""


class OutputEmptiedError(OutputInUseError):
    """The output was emptied while this run held it, and another run has begun in it."""


class OutputRemovedError(JobFailure):
    """Files of the output were removed while this run held it."""

    def __init__(self, url: str) -> None:
        super().__init__(f"files of {url} were removed while the job was running; the next run re-renders them")
        self.url = url

    def __reduce__(self) -> tuple[type[OutputRemovedError], tuple[str]]:
        """For Ray, which sends the error of a commit to the driver."""
        return type(self), (self.url,)


@contextmanager
def hold_output(
    storage: Storage,
    job: str,
    *,
    when_held: WhenHeld = "refuse",
    say: Callable[[str], None] = lambda line: None,
    retry_seconds: float = 0.0,
    work: str = "rendered",
    advice: str = RENDER_ADVICE,
) -> Iterator[bool]:
    """Hold the output while the block runs. Yields True if it waited for another run to end.

    `retry_seconds` is how long to wait for a store that does not answer before the lease is taken. `work` is what is
    being done to the output and `advice` what to do then, for whoever finds it held.

    Raises OutputInUseError naming the holder if another run holds the output and `when_held` is "refuse". If another
    run takes the lease over while the block runs (this process was suspended or cut off for too long), the block's
    thread is interrupted as by Ctrl-C and OutputInUseError is raised; if the lease was removed, OutputRemovedError, or
    OutputEmptiedError if another run has begun since. So is a StorageFailure of the block, such as a folder that is
    gone, if the lease is lost when it is raised.
    """
    if when_held == "ignore":
        yield False
        return
    mine = Holder(job=job)
    with storage_failures(storage.url):
        number, was_waited = _acquire(storage, mine, when_held, say, retry_seconds, work, advice)
    renewal = _Renewal(storage, number, mine)
    renewal.start()
    try:
        with _interruptible(renewal):
            yield was_waited
    except KeyboardInterrupt:
        if renewal.loss is None:
            raise
        raise renewal.loss from None
    except StorageFailure as failure:
        if (loss := renewal.find_loss()) is None:
            raise
        raise loss from failure
    finally:
        renewal.stop()
        with side_work(f"the lease on {storage.url} was not released and expires in {EXPIRE_SECONDS:.0f} s", say):
            _release(storage, number, mine)


def _acquire(
    storage: Storage,
    mine: Holder,
    when_held: WhenHeld,
    say: Callable[[str], None],
    retry_seconds: float,
    work: str,
    advice: str,
) -> tuple[int, bool]:
    """The number of the lease that this run now holds, and whether it waited for another run."""
    was_waited = False
    while True:
        number, holder = wait_for_storage(storage.url, retry_seconds, say, _try_to_acquire, storage, mine)
        if holder.token == mine.token:
            return number, was_waited
        if when_held == "refuse":
            raise OutputInUseError(f"{storage.url} is being {work} by {holder}; {advice}")
        if not was_waited:
            say(f"waiting: {storage.url} is being {work} by {holder}")
        was_waited = True


def _try_to_acquire(storage: Storage, mine: Holder) -> tuple[int, Holder]:
    """Take the lease if no living run holds it. The number of the newest lease and its holder, this run or another."""
    while True:
        number, data = _newest(storage)
        holder = Holder.from_json(data) if data is not None else None
        if holder is not None and holder.token == mine.token:  # the store went away after this run had created it
            return number, holder
        if data is not None and holder is not None and not holder.is_known_dead and not _is_over(storage, number, data):
            return number, holder
        if storage.create(_name(number + 1), mine.to_json()) and _newest(storage)[0] == number + 1:
            _remove_older(storage, number)
            return number + 1, mine


def _is_over(storage: Storage, number: int, data: bytes) -> bool:
    """Watch a lease until it is renewed (False), or is removed or unchanged for EXPIRE_SECONDS (True)."""
    deadline = time.monotonic() + EXPIRE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        seen = _newest(storage)
        if seen[1] is None:
            return True
        if seen != (number, data):
            return False
    return True


class _Renewal(threading.Thread):
    """Renews the lease until it is stopped, or finds that another run holds it or that it is gone."""

    def __init__(self, storage: Storage, number: int, mine: Holder) -> None:
        super().__init__(daemon=True, name="lease")
        self._storage, self._number, self._mine = storage, number, mine
        self._stopped, self._holder = threading.Event(), threading.current_thread()
        self._renewed_at = time.time()  # the clock runs on while the machine is suspended
        self.loss: JobFailure | None = None

    def run(self) -> None:
        while not self._stopped.wait(RENEW_SECONDS):
            with _tolerating_storage_errors():
                self.loss = self._check()
                if self.loss is not None:
                    _interrupt(self._holder)
                    return
                self._storage.write(_name(self._number), replace(self._mine, renewed=now()).to_json())
                self._renewed_at = time.time()

    def find_loss(self) -> JobFailure | None:
        """The failure to raise if the lease is lost now; None also if storage cannot tell."""
        with _tolerating_storage_errors():
            return self._check()
        return None

    def _check(self) -> JobFailure | None:
        """The failure to raise if the lease was lost."""
        has_expired = time.time() - self._renewed_at > EXPIRE_SECONDS
        number, data = _newest(self._storage)
        if data is None:  # a run that takes over removes this lease only after writing its own
            if has_expired and self._storage.exists(JOB_FILE):  # which goes with an output that is removed
                return self._taken_over("another run, which has ended since")
            return OutputRemovedError(self._storage.url)
        holder = Holder.from_json(data)
        if number <= self._number and holder.token in ("", self._mine.token):
            return None
        if number > self._number or has_expired:
            return self._taken_over(holder)
        return OutputEmptiedError(f"{self._storage.url} was taken over by {holder}: the folder was emptied")

    def _taken_over(self, holder: Holder | str) -> OutputInUseError:
        url = self._storage.url
        return OutputInUseError(f"{url} was taken over by {holder}: this run did not renew its lease in time")

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=RENEW_SECONDS)


@contextmanager
def _interruptible(renewal: _Renewal) -> Iterator[None]:
    """Let a lost lease interrupt the block even where SIGINT is ignored (nohup, a script's background job)."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if renewal.loss is not None:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(thread: threading.Thread) -> None:
    """Interrupt a thread as Ctrl-C does. Only the main thread gets signals; any other gets the exception itself, with
    its next bytecode. Ray blocks SIGINT in job drivers, and Windows has no pthread_kill: there, only Python is told.
    """
    assert thread.ident is not None, "the thread is running"
    if thread is not threading.main_thread():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
    elif sys.platform == "win32" or signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        _thread.interrupt_main()
    else:
        signal.pthread_kill(thread.ident, signal.SIGINT)


def _newest(storage: Storage) -> tuple[int, bytes | None]:
    """The highest number of a lease and its content; None if it was released or there never was one."""
    numbers = [int(match[1]) for name in storage.names("") if (match := _LEASE_NAME.fullmatch(name))]
    number = max(numbers, default=0)
    try:
        return number, storage.read(_name(number)) if number else None
    except FileNotFoundError:
        return number, None


def _release(storage: Storage, number: int, mine: Holder) -> None:
    """Remove the lease, unless another run has taken it over or it was removed."""
    with suppress(FileNotFoundError):
        if Holder.from_json(storage.read(_name(number))).token == mine.token:
            storage.remove(_name(number))


@contextmanager
def _tolerating_storage_errors() -> Iterator[None]:
    """Ignore errors of storage: the lease then expires, and the run's own reads and writes report the error."""
    try:
        yield
    except Exception as error:
        if not is_transient(error) and not isinstance(error, (*LASTING_ERRORS, StorageFailure)):
            raise


def _remove_older(storage: Storage, number: int) -> None:
    """Remove the expired leases."""
    for name in storage.names(""):
        if (match := _LEASE_NAME.fullmatch(name)) and int(match[1]) <= number:
            storage.remove(name)


def _name(number: int) -> str:
    return f"_lease.{number:06d}.json"
