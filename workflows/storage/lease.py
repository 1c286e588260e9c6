"""The lease on an output: it keeps a second run from rendering what a first one is rendering, and saves its GPU hours.

Nothing that is committed depends on it: two runs on one output commit each shard once, with a lease or without.

The holder is the lease file with the highest number. It is created where none is, so one of many wins, and is
written again every RENEW_SECONDS. A file that does not change for EXPIRE_SECONDS, by the watch of the one who looks,
has no holder any more: the looker creates the next number. No two clocks are ever compared.
"""

from __future__ import annotations

import _thread
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

from actors.errors import JobFailure
from workflows.storage.errors import LASTING_ERRORS, StorageFailure, is_transient, storage_failures
from workflows.storage.store import Storage

RENEW_SECONDS = 10.0
EXPIRE_SECONDS = 45.0  # of no renewal: four in a row were lost
LOOK_SECONDS = 1.0
_LEASE_NAME = re.compile(r"_lease\.(\d+)\.json")

# What to do where another run holds the output: refuse at once, wait for its end, or render beside it.
WhenHeld = Literal["refuse", "wait", "ignore"]


class OutputInUseError(JobFailure):
    """Another run renders into this output at this moment, or took it over from this one."""


class OutputRemovedError(JobFailure):
    """Somebody removed files of the output while this run held it."""

    def __init__(self, url: str) -> None:
        super().__init__(f"files of {url} were removed while it was rendered: the next run renders what is gone again")


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds an output: for people, and to tell a process of this machine that has died from one that lives.

    `machine` is one boot of one machine and one process namespace of it; `pid_since` tells a process from an older
    one that had its number. Both are empty where the system does not say.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    job: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=lambda: _machine())
    pid_since: str = field(default_factory=lambda: _start_of(os.getpid()))
    since: str = field(default_factory=lambda: _now())
    renewed: str = field(default_factory=lambda: _now())

    @property
    def is_known_dead(self) -> bool:
        """Whether this is a process of this machine that runs no more; of other machines nothing is known."""
        return bool(self.machine) and self.machine == _machine() and _start_of(self.pid) != self.pid_since

    def __str__(self) -> str:
        return f"{self.job or 'a run'} on {self.host} (process {self.pid}) since {self.since}"


@contextmanager
def hold_output(
    storage: Storage, job: str, *, when_held: WhenHeld = "refuse", say: Callable[[str], None] = lambda line: None
) -> Iterator[bool]:
    """Hold the output while the block runs; yields whether another run's end was waited for.

    Raises OutputInUseError naming the holder if there is one and it is not waited for. If another run takes the lease
    over in mid-block (this process stood still, or was cut off, for too long), the main thread is interrupted as by a
    Ctrl-C, and that becomes an OutputInUseError; if the lease is gone with the output, an OutputRemovedError.
    """
    if when_held == "ignore":
        yield False
        return
    mine = Holder(job=job)
    with storage_failures(storage.url):
        number, was_waited = _acquire(storage, mine, when_held, say)
    renewal = _Renewal(storage, number, mine)
    renewal.start()
    try:
        with _heeding_interrupts(renewal):
            yield was_waited
    except KeyboardInterrupt:
        if renewal.loss is None:
            raise
        raise renewal.loss from None
    finally:
        renewal.stop()
        _release(storage, number, mine)


def _acquire(storage: Storage, mine: Holder, when_held: WhenHeld, say: Callable[[str], None]) -> tuple[int, bool]:
    """The number of the lease that is now ours, and whether somebody else's was waited for."""
    was_told = was_waited = False
    while True:
        number, data = _newest(storage)
        if data is None or _holder(data).is_known_dead or _is_over(storage, number, data):
            if storage.create(_name(number + 1), _bytes(mine)) and _newest(storage)[0] == number + 1:
                _remove_older(storage, number)
                return number + 1, was_waited
        elif when_held == "refuse":
            raise OutputInUseError(
                f"{storage.url} is being rendered by {_holder(data)}; wait for its end (render: --wait-for-output), or "
                "render beside it with --ignore-lease: no image is lost or doubled by that, only GPU hours"
            )
        else:
            was_waited = True
            if not was_told:
                say(f"waiting: {storage.url} is being rendered by {_holder(data)}")
            was_told = True


def _is_over(storage: Storage, number: int, data: bytes) -> bool:
    """Watch a lease until it is renewed (False), is gone, or has not changed for EXPIRE_SECONDS (True)."""
    deadline = time.monotonic() + EXPIRE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        seen = _newest(storage)
        if seen[1] is None:
            return True
        if seen != (number, data):
            return False
    return True


class _Renewal(threading.Thread):
    """Writes the lease again and again, until it is stopped or sees that it is another's or gone."""

    def __init__(self, storage: Storage, number: int, mine: Holder) -> None:
        super().__init__(daemon=True, name="lease")
        self._storage, self._number, self._mine = storage, number, mine
        self._stopped = threading.Event()
        self.loss: JobFailure | None = None

    def run(self) -> None:
        while not self._stopped.wait(RENEW_SECONDS):
            with _bearing_with_storage():
                self.loss = self._look()
                if self.loss is not None:
                    _interrupt_main()
                    return
                self._storage.write(_name(self._number), _bytes(replace(self._mine, renewed=_now())))

    def _look(self) -> JobFailure | None:
        """How the lease was lost, if it was."""
        number, data = _newest(self._storage)
        if data is None:  # a run that takes it over removes this lease after it has written its own
            return OutputRemovedError(self._storage.url)
        holder = _holder(data)
        if number <= self._number and holder.token in ("", self._mine.token):
            return None
        reason = "this run had shown no life for too long" if number > self._number else "the folder had been emptied"
        return OutputInUseError(f"{self._storage.url} was taken over by {holder}: {reason}")

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=RENEW_SECONDS)


@contextmanager
def _heeding_interrupts(renewal: _Renewal) -> Iterator[None]:
    """Where Ctrl-C is ignored (nohup, a script's background job), let it end the block once the lease is lost."""
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


def _interrupt_main() -> None:
    """A Ctrl-C for the main thread. Ray starts job drivers with that signal blocked; then only Python is told."""
    if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        _thread.interrupt_main()
    else:
        main = threading.main_thread().ident
        assert main is not None, "it runs"
        signal.pthread_kill(main, signal.SIGINT)


def _newest(storage: Storage) -> tuple[int, bytes | None]:
    """The highest number of a lease and what stands in it; None where it was given back, or there never was one."""
    numbers = [int(match[1]) for name in storage.names("") if (match := _LEASE_NAME.fullmatch(name))]
    number = max(numbers, default=0)
    try:
        return number, storage.read(_name(number)) if number else None
    except FileNotFoundError:
        return number, None


def _release(storage: Storage, number: int, mine: Holder) -> None:
    """Give the lease back, unless another run's has taken its place."""
    with _bearing_with_storage():
        if _holder(storage.read(_name(number))).token == mine.token:
            storage.remove(_name(number))


@contextmanager
def _bearing_with_storage() -> Iterator[None]:
    """Let storage be away or refuse: the lease expires then, and why is for the run's own work to tell."""
    try:
        yield
    except Exception as error:
        if not is_transient(error) and not isinstance(error, (*LASTING_ERRORS, StorageFailure)):
            raise


def _remove_older(storage: Storage, number: int) -> None:
    """Clear away the leases that ran out."""
    for name in storage.names(""):
        if (match := _LEASE_NAME.fullmatch(name)) and int(match[1]) <= number:
            storage.remove(name)


def _name(number: int) -> str:
    return f"_lease.{number:06d}.json"


def _bytes(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder)) + "\n").encode()


def _holder(data: bytes) -> Holder:
    """The holder that a lease file names; of one that another version wrote, what both know."""
    known = {known.name for known in fields(Holder)}
    try:
        return Holder(**{key: value for key, value in json.loads(data).items() if key in known})
    except (ValueError, AttributeError):
        return Holder(token="", job="a run of another version", machine="")


def _machine() -> str:
    """This boot of this machine and this namespace of processes; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty if it is none, or has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
