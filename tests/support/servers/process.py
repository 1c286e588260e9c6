"""Child processes of the tests: started with a log, waited for, and ended by their own process ids."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.05


def launch(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a daemon that writes to `log` and that dies with this process, even when this process is killed."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*dies_with_parent(), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C aimed at the tests is not aimed at their servers
        )


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str] | None) -> None:
    """Kill the process and reap it; nothing to do where it never started or has ended."""
    if process is not None:
        process.kill()
        process.wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers_http(port: int) -> bool:
    """Whether an HTTP server on 127.0.0.1 answers a GET of / with 200. Reads no proxy settings."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60) -> None:
    """Return once `ready()`; raise RuntimeError with the end of the log when the process ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.poll() is None else f"ended with status {process.returncode}"
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} {state}; the end of {log}:\n{tail}")
        time.sleep(POLL_S)


def run(command: Sequence[str], timeout_s: float = 30) -> None:
    """Run a short command to its end, and again until it exits with 0: a cluster that is forming refuses the first."""
    deadline = time.monotonic() + timeout_s
    command = [*dies_with_parent(), *command]
    while True:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
        if result.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{command!r} failed for {timeout_s:g} s: {result.stderr[-2000:]}")
        time.sleep(POLL_S)


def dies_with_parent() -> list[str]:
    """The start of a command line that ends with the process that launched it. Linux only, as Ceph is.

    It heeds Ctrl-C even where the tests themselves run behind nohup.
    """
    if not shutil.which("setpriv"):
        return []
    return ["setpriv", "--pdeathsig", "KILL", "env", "--default-signal=INT"]
