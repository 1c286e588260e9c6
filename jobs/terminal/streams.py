"""Standard streams that outlive their reader: a closed pipe, terminal or full disk loses lines and ends no job."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class LastingStream(io.TextIOWrapper):
    """A text stream that drops what it is given once its file cannot be written."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Let the file descriptor lead nowhere, as Python's documentation advises for SIGPIPE."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def keep_streams() -> None:
    """Make standard output and error lasting streams. Opens those that the caller closed, so no other file gets their
    numbers; characters that an encoding lacks are escaped.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free number
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def _lasting(stream: TextIO | None, number: int) -> LastingStream:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    buffer = stream.detach() if isinstance(stream, io.TextIOWrapper) else open(number, "wb", closefd=False)  # noqa: SIM115
    is_for_people = number == 2 or buffer.isatty()
    return LastingStream(buffer, encoding=encoding, errors="backslashreplace", line_buffering=is_for_people)
