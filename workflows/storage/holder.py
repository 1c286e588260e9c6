"""The holder of an output: which run it is, and whether its process on this machine is still alive."""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The run that holds an output, as a lease file names it.

    `token` is unique to the run. `job`, `host`, `since` and `renewed` are for people. `machine` (one boot of one
    machine, and a process namespace) and `pid_since` (the start time of process `pid`) show whether a holder on this
    machine is still alive; both are empty where the system does not provide them.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    job: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=lambda: _machine())
    pid_since: str = field(default_factory=lambda: _start_of(os.getpid()))
    since: str = field(default_factory=lambda: now())
    renewed: str = field(default_factory=lambda: now())

    @property
    def is_known_dead(self) -> bool:
        """Whether this was a process of this machine that has ended. False for processes of other machines."""
        return bool(self.machine) and self.machine == _machine() and _start_of(self.pid) != self.pid_since

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self)) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Holder:
        """The holder that a lease file names. Fields that only another version knows are ignored."""
        known = {known.name for known in fields(cls)}
        try:
            return cls(**{key: value for key, value in json.loads(data).items() if key in known})
        except (ValueError, AttributeError):
            return cls(token="", job="a run of another version", machine="")

    def __str__(self) -> str:
        return f"{self.job or 'a run'} on {self.host} (process {self.pid}) since {self.since}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _machine() -> str:
    """An id of this boot of this machine and of its process namespace; empty if the system does not provide one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's clock ticks; empty if there is no such process or it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
