"""`--json` of the verbs that print a result: one object, also for a failure, with the exit code of the lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Command
from tests.support.exports import finished_with


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line next to a finished output of two images."""
    finished_with(tmp_path, {"id": ["a", "b"], "prompt": ["one", "two"]})
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, monkeypatch, capsys)


def facts_of(result: tuple[int, str, str]) -> tuple[int, dict[str, Any]]:
    """The exit code, and the only thing on standard output."""
    code, out, _ = result
    return code, json.loads(out)


def test_verify(command: Command) -> None:
    code, facts = facts_of(command("verify", "out", "--json", "--replay", "1", "--clean"))
    assert (code, facts["num_images"], facts["faults"], facts["is_good"]) == (0, 2, [], True)
    assert (facts["repairs"], facts["cleaning"]) == (None, {"removed": [], "kept": []})
    assert [replay["same_bytes"] for replay in facts["replays"]] == [True]


def test_verify_of_a_damaged_output(command: Command) -> None:
    next((command.folder / "out/images").rglob("*.png")).unlink()
    code, facts = facts_of(command("verify", "out", "--json"))
    assert (code, len(facts["faults"]), facts["is_good"]) == (1, 1, False)


def test_report(command: Command) -> None:
    code, facts = facts_of(command("report", "out", "--json"))
    assert (code, facts["num_images"], facts["num_shown"]) == (0, 2, 2)
    assert facts["report"] == f"{command.folder}/out/report.html"


def test_report_of_two_outputs(command: Command) -> None:
    code, facts = facts_of(command("report", "out", "out", "--json"))
    assert (code, facts["comparison"], facts["num_pairs"], facts["differences"]) == (0, "comparison.html", 2, [])


def test_export(command: Command) -> None:
    code, facts = facts_of(command("export", "out", "data", "--layout", "imagefolder", "--json"))
    assert (code, facts["layout"], facts["written"]["num_images"]) == (0, "imagefolder", 2)


def test_doctor(command: Command) -> None:
    code, facts = facts_of(command("doctor", "toy", "--json"))
    assert (code, facts["checkpoint"], facts["num_faults"]) == (0, "toy", 0)
    assert facts["checks"][0]["check"] == "family"


@pytest.mark.parametrize(
    "arguments", [("verify",), ("report",), ("retry-rejected",), ("export", "data", "--layout", "imagefolder")]
)
def test_a_failure_is_an_object_with_the_message(command: Command, arguments: tuple[str, ...]) -> None:
    verb, *others = arguments
    code, out, err = command(verb, "nothing", *others, "--json")
    assert code == 2
    assert list(json.loads(out)) == ["error"]
    assert "has no job.json" in json.loads(out)["error"]
    assert err.startswith("janus-batch: ")


def test_report_refuses_a_file_for_one_output(command: Command) -> None:
    code, _, err = command("report", "out", "--to", "page.html")
    assert code == 2
    assert "--to names the page that compares two outputs" in err
