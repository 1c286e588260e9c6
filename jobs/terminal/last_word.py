"""What a run says when its process ends without saying anything itself, and the small process that says it then.

Ray ends a driver's process at once, with exit code 1 and no exception, when the raylet on its machine is lost: a raylet
exits with any of its agents. It does the same once the head node has not answered for a minute. A system without memory
kills the process. So a second process outlives it. It waits at the end of a pipe. If the pipe closes without a
farewell, it prints what it was given and notifies `on_done`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

FAREWELL = "farewell"
NOTIFIED = "notified"
SHOW_CURSOR = "\x1b[?25h"  # the live view hides it
REASON = (
    "this process ended without a result. Ray ends it if Ray is lost on this machine (its raylet or one of its agents "
    "was killed; see {logs}) or its head node does not answer, and the system may kill it if memory runs out"
)

kept_open: list[int] = []  # file descriptors that a second process inherits, so that others see when it has ended
_running: list[subprocess.Popen[bytes]] = []  # the second processes of the blocks that run
_unsaid: list[subprocess.Popen[bytes]] = []  # the second processes that know an error which is not printed yet


@contextmanager
def last_word(
    job: str, output: str, *, advice: str, as_json: bool = False, on_done: str | None = None
) -> Iterator[None]:
    """If this process is ended while the block runs, another prints why that may be, and the advice, and notifies
    `on_done`.

    With `as_json`, it also prints the line that ends a failed run for programs.
    """
    from actors.errors import InputError, JobFailure  # not at the top: the second process has only the standard library
    from jobs.terminal.text import failure_text

    reason = REASON.format(logs=_ray_logs())
    failed = {"event": "failed", "job": job, "output": output, "error": reason}
    words: dict[str, Any] = {
        "stdout": json.dumps(failed, ensure_ascii=False) + "\n" if as_json else "",
        "stderr": f"janus-batch: {reason}\njanus-batch: {advice}\n",
    }
    if on_done:
        from jobs.terminal.notification import facts_of_lost

        words |= {"on_done": on_done, "facts": facts_of_lost(job, output, reason)}
    # -I -S: it needs nothing but the standard library. In its own session, no Ctrl-C reaches it.
    command = [sys.executable, "-I", "-S", __file__]
    witness = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, pass_fds=kept_open)
    _tell(witness, json.dumps(words))
    _running.append(witness)
    try:
        yield
    except (InputError, JobFailure) as error:  # Ray may end this process before the command line has printed it
        _tell(witness, json.dumps({"stderr": failure_text(error)}))
        _unsaid.append(witness)
        raise
    except BaseException:
        _dismiss(witness)
        raise
    else:
        _dismiss(witness)
    finally:
        _running.remove(witness)


def on_done_is_notified() -> None:
    """This process notifies `on_done` from here on. The second one does not, so that nothing is sent twice."""
    for witness in _running:
        _tell(witness, NOTIFIED)


def all_is_said() -> None:
    """The command line has printed the error that ends the run."""
    while _unsaid:
        _dismiss(_unsaid.pop())


def _dismiss(witness: subprocess.Popen[bytes]) -> None:
    _tell(witness, FAREWELL)
    with witness:  # closes the pipe and waits for its end
        pass


def _tell(witness: subprocess.Popen[bytes], line: str) -> None:
    """Send a line. If the second process was killed, the line is lost and the run continues."""
    assert witness.stdin is not None
    with suppress(OSError):
        witness.stdin.write(line.encode() + b"\n")


def _ray_logs() -> str:
    """The folder of the logs of the Ray that was started last on this machine."""
    folder = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return os.path.join(os.environ.get("RAY_TMPDIR") or folder or "/tmp", "ray", "session_latest", "logs")


def _wait_and_speak() -> None:
    """The second process: print the words of the last line unless it is a farewell, and notify unless that is done."""
    started_at = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.read().splitlines() or [FAREWELL]
    if lines[-1] == FAREWELL:
        return
    words = json.loads(next(line for line in reversed(lines) if line != NOTIFIED))
    for name in ("stdout", "stderr"):
        _print(name, words.get(name, ""))
    if words.get("on_done") and NOTIFIED not in lines:
        _notify(words["on_done"], words["facts"] | {"seconds": round(time.monotonic() - started_at, 1)})


def _print(name: str, text: str) -> None:
    stream = getattr(sys, name)
    with suppress(OSError, ValueError):
        stream.reconfigure(errors="backslashreplace")
        stream.write((SHOW_CURSOR if stream.isatty() and name == "stderr" else "") + text)
        stream.flush()


def _notify(on_done: str, facts: dict[str, Any]) -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from jobs.terminal.receiver import NotNotifiedError, receiver_of  # needs nothing but the standard library

    try:
        receiver_of(on_done).take((json.dumps(facts, ensure_ascii=False) + "\n").encode())
    except NotNotifiedError as error:
        _print("stderr", f"note: on_done was not notified: {error}\n")


if __name__ == "__main__":
    _wait_and_speak()
