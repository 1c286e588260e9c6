"""What verbs print: lines or one JSON object on standard output, progress on standard error."""

from __future__ import annotations

import json
import time

import pytest

from jobs.terminal import printer
from jobs.terminal.printer import printing


def test_the_result_is_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with printing() as out:
        out.line("faults      3")
        out.some(["a", "b", "c"], 2)
        out.note("note: a remark")
        out.result({"num_faults": 3})
    assert capsys.readouterr() == ("faults      3\n  a\n  b\n  ... and 1 more\n", "note: a remark\n")


def test_the_result_is_one_json_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with printing(as_json=True) as out:
        out.line("faults      3")
        out.note("note: a remark")
        with out.step("checking") as update:
            update(1, 2)
        out.result({"num_faults": 3})
    shown = capsys.readouterr()
    assert (json.loads(shown.out), shown.err) == ({"num_faults": 3}, "")


def test_a_failure_is_a_json_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no such output"), printing(as_json=True):
        raise ValueError("no such output")
    assert json.loads(capsys.readouterr().out) == {"error": "no such output"}


def test_a_long_step_says_what_it_does_and_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(printer, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(printer, "LINE_SECONDS", 0.0)
    text = ""
    with printing() as out, out.step("checking the files") as update:
        while "\n" not in text:
            time.sleep(0.01)
            text += capsys.readouterr().err
        update(1200, 5000)
    assert text + capsys.readouterr().err == "checking the files ...\nchecking the files: 1,200 of 5,000\n"


def test_a_terminal_gets_a_view_that_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich treat the output as a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    with printing() as out, out.step("checking the files") as update:
        update(1200, 5000)
    shown = capsys.readouterr()
    assert "checking the files" in shown.err
    assert "1200/5000" in shown.err
    assert shown.out == ""


def test_a_quiet_verb_prints_its_result_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with printing(is_quiet=True) as out:
        with out.step("checking") as update:
            update(1, 2)
        out.note("note: a remark")
        out.line("faults      3")
    assert capsys.readouterr() == ("faults      3\n", "")
