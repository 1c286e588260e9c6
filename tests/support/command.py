"""The command line as a person runs it: a process of its own, in the project's folder, with a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.support.servers.process import dies_with_parent, end

ROOT = Path(__file__).parents[2]
JANUS_BATCH = (sys.executable, "-m", "jobs")
WAIT_S = 300  # a busy machine starts Ray slowly
POLL_S = 0.05


def start(*arguments: str | Path, program: tuple[str, ...] = JANUS_BATCH) -> subprocess.Popen[str]:
    """Start a verb. A Ctrl-C in the terminal of the tests does not reach it; their end does."""
    return subprocess.Popen(
        [*dies_with_parent(), *program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for its end; what it printed and its exit code. One that does not end is killed: it would take the CPUs of
    the tests' own Ray from the tests that follow.
    """
    try:
        out, err = process.communicate(timeout=WAIT_S)
    except BaseException:
        end(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return finish(start(*arguments))


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """Send SIGINT as a terminal does: to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Return once `is_true()`; fail when the process ends first or time runs out."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{process.args} ended with {process.returncode}:\n{process.stderr.read()}")
        if time.monotonic() > deadline:
            end(process)
            raise AssertionError("waited in vain")
        time.sleep(POLL_S)


def write_job(path: Path, prompts: str | Path, output: str | Path, **sections: object) -> Path:
    """A job file of the toy engine."""
    fields = {"prompts": str(prompts), "output": str(output), "model": {"checkpoint": "toy"}, **sections}
    path.write_text(yaml.safe_dump(fields))
    return path


def processes_of(session: int) -> dict[int, str]:
    """The living processes of a session by id, with their names. Linux only."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        state, _parent, _group, of_session = rest.split()[:4]
        if int(of_session) == session and state != "Z":
            found[int(folder.name)] = name
    return found
