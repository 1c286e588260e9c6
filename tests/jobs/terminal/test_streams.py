"""Standard streams whose reader is gone, whose file is full, or that were closed before the start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command import ROOT

PROGRAM = """
import os, sys
from jobs.terminal.streams import keep_streams
keep_streams()
opened = os.open("/dev/null", os.O_RDONLY)
for number in range(3000):
    print("line", number, "\\u5929")
    print("line", number, file=sys.stderr)
sys.exit(7 if opened > 2 else 8)
"""


@pytest.mark.parametrize(
    "redirection",
    [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 >/dev/null | true", "> /dev/full 2> /dev/full"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_stream_that_is_lost_changes_no_exit_code(redirection: str, encoding: str) -> None:
    script = f"set -o pipefail; {sys.executable} -c '{PROGRAM}' {redirection}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env={"PYTHONIOENCODING": encoding}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 7
    assert "Error" not in ended.stderr
