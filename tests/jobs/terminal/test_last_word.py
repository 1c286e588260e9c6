"""The word of a run whose process is ended from outside, and the silence of one that ends by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

PROGRAM = """
import os, sys
from jobs.terminal.last_word import last_word
with last_word("nightly", "s3://bucket/café", advice="run it again", as_json="json" in sys.argv, on_done={on_done!r}):
    print("working", flush=True)
    {ending}
print("over")
"""

IMPORTS = "from jobs.api.show import SilentShow; from jobs.terminal.on_done import notifying"


def end_of(ending: str, *, as_json: bool = False, on_done: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a process that ends in this way while its word is held for it."""
    command = [sys.executable, "-c", PROGRAM.format(ending=ending, on_done=on_done), *["json"] * as_json]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("ending", ["os._exit(1)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_process_that_is_ended_is_spoken_for(ending: str) -> None:
    ended = end_of(ending)

    assert ended.returncode != 0
    assert ended.stdout == "working\n"
    reason, advice = [line for line in ended.stderr.splitlines() if line.startswith("janus-batch: ")]
    assert reason.startswith("janus-batch: this process ended without a result. Ray ends it if Ray is lost")
    assert "or its head node does not answer, and the system may kill it" in reason
    assert advice == "janus-batch: run it again"


def test_a_program_reads_the_same_as_json() -> None:
    ended = end_of("os._exit(1)", as_json=True)

    facts = json.loads(ended.stdout.splitlines()[-1])
    assert (facts["event"], facts["job"], facts["output"]) == ("failed", "nightly", "s3://bucket/café")
    assert facts["error"] in ended.stderr


def test_on_done_is_notified_before_the_first_process_of_a_container_ends(tmp_path: Path) -> None:
    """Its child runs the job; when it ends, the system ends all others."""
    on_done = f"sleep 1; cat > {tmp_path}/told; exit 7"
    ended, said = end_in_a_container("os.kill(os.getpid(), 9)", tmp_path, on_done)

    told = json.loads((tmp_path / "told").read_text())
    assert ended == 128 + 9
    assert (told["state"], told["exit_code"], told["num_images"]) == ("failed", 1, None)
    assert told["text"].startswith("nightly failed · this process ended without a result")
    assert told["error"] in said
    assert said.endswith("note: on_done was not notified: the command ended with exit code 7\n")


def test_on_done_is_not_notified_again_after_the_run_has_notified_it(tmp_path: Path) -> None:
    on_done = f"cat >> {tmp_path}/told"
    notifying = f'notifying({on_done!r}, "nightly", "out", SilentShow())'
    ended = end_of(f"{IMPORTS}\n    with {notifying}: pass\n    os.kill(os.getpid(), 9)", on_done=on_done)

    (told,) = (tmp_path / "told").read_text().splitlines()
    assert json.loads(told)["state"] == "done"
    assert "this process ended without a result" in ended.stderr


def test_the_first_process_of_a_container_passes_signals_on(tmp_path: Path) -> None:
    ended, _ = end_in_a_container(
        "signal.signal(15, lambda *_: os._exit(3)); os.kill(os.getppid(), 15); time.sleep(60)", tmp_path
    )

    assert ended == 3


def end_in_a_container(ending: str, folder: Path, on_done: str | None = None) -> tuple[int, str]:
    """The exit code of the first process, and what was said until it ended."""
    if sys.platform != "linux":
        pytest.skip("containers are Linux's")
    stay = "import signal, time; from jobs.terminal.first_process import stay_as_parent; stay_as_parent()"
    program = stay + PROGRAM.format(ending=ending, on_done=on_done)
    with open(folder / "said", "w") as said:
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=said, stderr=said)
    return ended.returncode, (folder / "said").read_text()


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
