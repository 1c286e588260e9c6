"""The command line as the first process of a container, where the system kills all other processes when it ends.

There, the command line runs in a child, so that the second process of `last_word` can outlive it. The first process
passes signals on, collects processes without a parent, waits for the last word, and exits with the child's code.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

from jobs.terminal.last_word import kept_open

LAST_WORD_SECONDS = 45.0  # that the second process may take: it also notifies `on_done`
# Programs that containers run as process 1 to start one other, with which they end.
INITS = {"catatonit", "docker-init", "dumb-init", "tini"}


def outlive_in_a_container() -> None:
    """In a container's main process: start a child, in which this returns, and exit when it has ended. Elsewhere,
    return at once.
    """
    if sys.platform == "linux" and _is_main_process_of_a_container():
        stay_as_parent()


def stay_as_parent() -> None:
    """Return in a child of this process. This process exits with the child's code, 128 + N after a signal N."""
    assert sys.platform == "linux", "waits for signals as Linux does"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # else one is lost until we wait
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        kept_open.append(write_end)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os.close(write_end)
    code = _end_of(child)
    select.select([read_end], [], [], LAST_WORD_SECONDS)  # readable once the child and the last word have ended
    os._exit(code)


def _end_of(child: int) -> int:
    """Pass signals on to a child until it has ended; its exit code. Signals of a terminal reach the child anyway."""
    assert sys.platform == "linux", "waits for signals as Linux does"
    while True:
        received = signal.sigwaitinfo(signal.valid_signals())
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # sent by a process, not by the kernel
                os.kill(child, received.si_signo)
            continue
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return code if code >= 0 else 128 - code


def _is_main_process_of_a_container() -> bool:
    """Whether this process has no parent here, or one that is there to start it."""
    if os.getppid() != 1:
        return os.getppid() == 0
    with suppress(OSError):
        return Path("/proc/1/comm").read_text().strip() in INITS
    return False
