"""What a shell completes: commands, options, checkpoints, folders and keys, by the script that `completion` prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from jobs.cli.completion import VARIABLE
from jobs.cli.main import cli
from tests.support.command import ROOT
from tests.support.command_line import Command


def completed(*words: str) -> list[tuple[str, str]]:
    """The kind and the value of what completes the last word."""
    items = BashComplete(cli, {}, "janus-batch", VARIABLE).get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in items]


def plain(*values: str) -> list[tuple[str, str]]:
    return [("plain", value) for value in values]


def test_commands_and_options_are_completed() -> None:
    assert completed("rep") == plain("replay", "report")
    assert completed("render", "--max") == plain("--max-rejected")
    assert completed("completion", "z") == plain("zsh")


def test_values_are_completed() -> None:
    assert completed("render", "--checkpoint", "janus") == plain("janus-shapes", "janusflow-shapes")
    assert completed("doctor", "./") == [("dir", "./")]
    assert completed("status", "ren") == [("dir", "ren")]
    assert completed("render", "examples/") == [("file", "examples/")]
    assert completed("render", "--set", "sampling.cfg_w") == plain("sampling.cfg_weight=")
    assert ("plain", "shard_rows=") in completed("render", "--set", "s")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("shell", "words"),
    [("bash", "_janus_batch_completion()"), ("zsh", "#compdef janus-batch"), ("fish", "function _janus_batch_comp")],
)
def test_the_script_of_a_shell_is_printed(command: Command, shell: str, words: str) -> None:
    code, out, err = command("completion", shell)

    assert (code, err) == (0, "")
    assert words in out


def test_another_shell_is_refused(command: Command) -> None:
    code, _, err = command("completion", "csh")

    assert code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "janus-batch"
    program.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m jobs "$@"\n')
    program.chmod(0o755)
    script = f"""
        PATH="{tmp_path}:$PATH"
        eval "$(janus-batch completion bash)"
        COMP_WORDS=(janus-batch retry) COMP_CWORD=1
        _janus_batch_completion janus-batch
        echo "${{COMPREPLY[@]}}"
        complete -p janus-batch
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)

    replies, how = done.stdout.splitlines()
    assert replies == "retry-rejected"
    assert how.endswith("-F _janus_batch_completion janus-batch")
