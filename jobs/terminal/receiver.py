"""Who is notified of the end of a job: a URL from an environment variable, or a shell command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from actors.errors import JobFailure, one_line
from jobs.job_file.errors import JobFileError

SECONDS = 30.0  # that a receiver may take
TAIL_BYTES = 1000  # of what a command that fails prints
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class NotNotifiedError(JobFailure):
    """A receiver did not take the notification. The message does not contain its URL."""


class Receiver(Protocol):
    """Takes a notification. Raises NotNotifiedError."""

    def take(self, data: bytes) -> None: ...


def receiver_of(on_done: str) -> Receiver:
    """The receiver that a job file names: `$NAME` for a URL, else a command. Raises JobFileError."""
    if not (match := VARIABLE.fullmatch(on_done)):
        return Command(command=on_done)
    name = match[1] or match[2]
    url = os.environ.get(name)
    if url is None:
        raise JobFileError(f"on_done: the environment variable {name} is not set; it must hold an http(s) URL")
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise JobFileError(f"on_done: the environment variable {name} must hold an http(s) URL")
    return WebHook(name=name, url=url)


@dataclass(frozen=True, kw_only=True, slots=True)
class WebHook:
    """A URL to which notifications are posted. It is a secret: `name` is shown in its place."""

    name: str
    url: str

    def take(self, data: bytes) -> None:
        answers: list[str] = []
        # In a thread of its own: looking up a host has no timeout.
        thread = threading.Thread(target=lambda: answers.append(self._post(data)), daemon=True)
        thread.start()
        thread.join(SECONDS)
        if fault := answers[0] if answers else _no_answer():
            raise NotNotifiedError(f"${self.name}: {fault}")

    def _post(self, data: bytes) -> str:
        """What went wrong; empty if nothing did."""
        headers = {"Content-Type": "application/json", "User-Agent": "janus-batch"}
        try:
            request = urllib.request.Request(self.url, data, headers, method="POST")
            with urllib.request.urlopen(request, timeout=SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            return f"HTTP status {error.code}"
        except urllib.error.URLError as error:
            return _no_answer() if isinstance(error.reason, TimeoutError) else one_line(str(error.reason))
        except TimeoutError:
            return _no_answer()
        except Exception as error:  # noqa: BLE001 the text of others, such as InvalidURL, contains the URL
            return type(error).__name__


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A shell command that reads the notification from standard input."""

    command: str

    def take(self, data: bytes) -> None:
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self.command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C that ends the job does not end its notification
            )
            try:
                process.communicate(data, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise NotNotifiedError(f"the command did not end within {SECONDS:g} s") from None
            except BaseException:
                _kill(process)
                raise
            if process.returncode:
                raise NotNotifiedError(f"the command ended with exit code {process.returncode}{_last_line(errors)}")


def _no_answer() -> str:
    return f"no answer within {SECONDS:g} s"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and, where the system has sessions, all that it started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(errors: IO[bytes]) -> str:
    """`: ` and the last line that the command wrote to standard error; nothing if it wrote none."""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f": {one_line(lines[-1])}" if lines else ""
