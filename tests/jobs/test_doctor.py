"""`janus-batch doctor` prints a table and exits 1 on a fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import cli

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["janus-tiny", "janusflow-tiny"])
def test_a_sound_checkpoint_passes(name: str) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(DATA / name)], standalone_mode=False)
    assert result.return_value == 0
    assert "no fault found" in result.output
    assert "ok     guidance" in result.output


def test_a_wrong_pad_is_named_and_exits_1(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "janus-tiny", tmp_path / "broken"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "!"}), encoding="utf-8")
    result = CliRunner().invoke(cli, ["doctor", str(folder)], standalone_mode=False)
    assert result.return_value == 1
    assert "FAULT  pad settings           tokenizer_config.json calls '!' the pad token" in result.output


def test_a_folder_without_a_model_is_a_fault_of_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 1
    assert "holds no config.json" in result.output
