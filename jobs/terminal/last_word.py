"""What a run says when its process ends without saying anything itself, and the small process that says it then.

Ray ends a driver's process at once, with exit code 1 and no exception, when the raylet on its machine is lost: a raylet
exits with any of its agents. A system without memory kills the process. So a second process outlives it. It waits at
the end of a pipe, prints what it was given if the pipe closes without a farewell, and exits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FAREWELL = "farewell"
SHOW_CURSOR = "\x1b[?25h"  # the live view hides it
REASON = (
    "this process ended without a result. Ray ends it if Ray is lost on this machine (its raylet or one of its agents "
    "was killed; see {logs}), and the system may kill it if memory runs out"
)

_unsaid: list[subprocess.Popen[bytes]] = []  # the second processes that know an error which is not printed yet


@contextmanager
def last_word(job: str, output: str, *, advice: str, as_json: bool = False) -> Iterator[None]:
    """If this process is ended while the block runs, another prints why that may be, and the advice.

    With `as_json`, it also prints the line that ends a failed run for programs.
    """
    from actors.errors import InputError, JobFailure  # not at the top: the second process has only the standard library
    from jobs.terminal.text import failure_text

    reason = REASON.format(logs=_ray_logs())
    failed = {"event": "failed", "job": job, "output": output, "error": reason}
    words = {
        "stdout": json.dumps(failed, ensure_ascii=False) + "\n" if as_json else "",
        "stderr": f"janus-batch: {reason}\njanus-batch: {advice}\n",
    }
    # -I -S: it needs nothing but the standard library. In its own session, no Ctrl-C reaches it.
    command = [sys.executable, "-I", "-S", __file__]
    witness = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    _tell(witness, json.dumps(words))
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
    """The second process: print the words of the last line unless it is a farewell."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.read().splitlines() or [FAREWELL]
    if (words := lines[-1]) == FAREWELL:
        return
    for name, text in json.loads(words).items():
        stream = getattr(sys, name)
        with suppress(OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")
            stream.write((SHOW_CURSOR if stream.isatty() and name == "stderr" else "") + text)
            stream.flush()


if __name__ == "__main__":
    _wait_and_speak()
