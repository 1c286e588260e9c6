"""The benchmark jobs plan, and the converter makes what their exports need."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from examples.recipes.convert_prompts import main
from tests.support.command_line import Command

RECIPES = Path(__file__).parents[2] / "examples/recipes"


def write_source(kind: str, folder: Path) -> Path:
    """Two prompts as the benchmark publishes them."""
    if kind == "dpg":
        for name, text in (("0", "a cat\n"), ("whoops_5", "a dog")):
            (folder / f"{name}.txt").write_text(text)
        return folder
    if kind == "geneval":
        lines = [{"tag": "counting", "include": [], "prompt": text} for text in ("a cat", "a dog")]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / "metadata.jsonl"
    rows = ["Prompt\tCategory\tChallenge\tNote", "a cat\tAnimals\tBasic\t", 'a "dog\tAnimals\tBasic\t']
    (folder / "p.tsv").write_text("\n".join(rows) + "\n")
    return folder / "p.tsv"


@pytest.mark.parametrize(
    ("kind", "recipe", "ids"),
    [
        ("geneval", "geneval", ["geneval-00000", "geneval-00001"]),
        ("dpg", "dpg-bench", ["0", "whoops_5"]),
        ("parti", "partiprompts", ["parti-0000", "parti-0001"]),
    ],
)
def test_a_recipe_plans_what_the_converter_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    recipe: str,
    ids: list[str],
) -> None:
    (tmp_path / "source").mkdir()
    prompts = tmp_path / "prompts.parquet"
    answer = CliRunner().invoke(main, [kind, str(write_source(kind, tmp_path / "source")), str(prompts)])
    assert answer.exit_code == 0, answer.output
    assert pq.read_table(prompts)["id"].to_pylist() == ids

    changes = (f"prompts={prompts}", f"output={tmp_path}/out", "model.checkpoint=toy")
    command = Command(tmp_path, monkeypatch, capsys)
    settings = [part for change in changes for part in ("--set", change)]
    code, out, _ = command("plan", str(RECIPES / f"{recipe}.yaml"), "--json", *settings)

    assert code == 0
    assert json.loads(out)["num_images"] == 8
