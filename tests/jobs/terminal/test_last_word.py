"""The word of a run whose process is ended from outside, and the silence of one that ends by itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.command import ROOT

PROGRAM = """
import os, sys
from jobs.terminal.last_word import last_word
with last_word("nightly", "s3://bucket/café", advice="run it again", as_json=len(sys.argv) > 2):
    print("working", flush=True)
    {}
print("over")
"""


def end_of(ending: str, *, as_json: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a process that ends in this way while its word is held for it."""
    command = [sys.executable, "-c", PROGRAM.format(ending), "run", *["json"] * as_json]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("ending", ["os._exit(1)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_process_that_is_ended_is_spoken_for(ending: str) -> None:
    ended = end_of(ending)

    assert ended.returncode != 0
    assert ended.stdout == "working\n"
    reason, advice = [line for line in ended.stderr.splitlines() if line.startswith("janus-batch: ")]
    assert reason.startswith("janus-batch: this process ended without a result. Ray ends it if Ray is lost")
    assert advice == "janus-batch: run it again"


def test_a_program_reads_the_same_as_json() -> None:
    ended = end_of("os._exit(1)", as_json=True)

    facts = json.loads(ended.stdout.splitlines()[-1])
    assert (facts["event"], facts["job"], facts["output"]) == ("failed", "nightly", "s3://bucket/café")
    assert facts["error"] in ended.stderr


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise KeyboardInterrupt", "os.close(2)"])
def test_a_process_that_ends_by_itself_speaks_for_itself(ending: str) -> None:
    ended = end_of(ending)

    assert "without a result" not in ended.stdout + ended.stderr


def test_an_error_is_said_even_if_the_process_is_ended_before_it_prints_it() -> None:
    error = "from actors.errors import JobFailure; raise JobFailure('Ray died')"
    ended = end_of(f"import atexit; atexit.register(os._exit, 1); sys.excepthook = lambda *_: None; {error}")

    assert ended.stderr.splitlines()[-2:] == [
        "janus-batch: Ray died",
        "janus-batch: run the same command again to resume; committed images are kept",
    ]


def test_an_error_that_is_printed_is_not_said_again() -> None:
    print_it = "sys.excepthook = lambda kind, error, _: (print(error, file=sys.stderr), all_is_said())"
    imports = "from actors.errors import InputError; from jobs.terminal.last_word import all_is_said"
    ended = end_of(f"{imports}; {print_it}; raise InputError('wrong')")

    assert ended.stderr == "wrong\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_does_not_need_the_second_process() -> None:
    children = "open(f'/proc/self/task/{os.getpid()}/children').read().split()"
    ended = end_of(f"[os.kill(int(child), 9) for child in {children}]")

    assert (ended.returncode, ended.stdout) == (0, "working\nover\n")
