"""docs/tutorial.md: its ten commands work one after the other, with its files, and its pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.command_line import Command
from tests.test_docs import FENCE, commands

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [block for _indent, fence, block in FENCE.findall(PAGE) if fence == language]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.timeout(400)
def test_ten_commands_lead_from_a_prompt_to_a_nightly_job(ray_cluster: None, command: Command, tmp_path: Path) -> None:
    """With the toy engine in place of the trained one, which takes a minute, and on a Ray of this process."""
    lines = [words for block in blocks("sh") for words in commands(block)]
    assert [words[0] for words in lines] == ["janus-batch"] * 10
    (tmp_path / "shapes.csv").write_text(*blocks("csv"))
    (job_file,) = blocks("yaml")

    for number, (_, verb, *options) in enumerate(lines):
        if lines[number - 1][1] == "init":
            assert (tmp_path / "nightly.yaml").is_file()
            (tmp_path / "nightly.yaml").write_text(job_file.replace("janus-shapes", "toy"))
        code, out, err = command(verb, *(word.replace("janus-shapes", "toy") for word in options))
        assert code == 0, f"{verb}: {err}"

    assert out.startswith("# nightly")
    assert json.loads((tmp_path / "nights.jsonl").read_text())["num_images"] == 12
    assert len(list(tmp_path.glob("renders/sweep/images/*/*.png"))) == 12
    assert (tmp_path / "varied.png").is_file()
    assert (tmp_path / "shapes-dataset/README.md").is_file()


def test_its_pictures_are_there_and_small() -> None:
    pictures = [ROOT / "docs" / name for name in re.findall(r"\((images/\S+\.png)\)", PAGE)]

    assert len(pictures) == 4
    assert all(picture.stat().st_size < 250_000 for picture in pictures)
