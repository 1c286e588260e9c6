"""The benchmark jobs plan, the converter makes what their exports need, and the bucket of a recipe is a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from actors.checkpoint.known import KNOWN_MODELS
from examples.recipes.convert_prompts import main
from jobs.job_file.read import read_job_file
from tests.support.command_line import Command
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import make_job, render, write_prompts
from workflows.job import Images

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


def test_the_bucket_that_a_job_renders_into_is_a_dataset(
    tmp_path: Path, s3_server: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's own layout, and the lines of docs/export.md that read it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # the store is on this machine
    fields = yaml.safe_load((RECIPES / "s3-bucket.yaml").read_text())
    write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a fox", "a red fox"]})
    images, options = Images(**fields["images"]), s3_server.storage_options
    job = make_job(tmp_path / "prompts.parquet", f"{s3_folder}/foxes", images=images, storage=options, shard_rows=1)

    render(job)

    files = f"{s3_folder}/foxes/images/*.parquet"
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", storage_options=options, cache_dir=cache)
    rows = rows.cast_column("image", datasets.Image())
    assert [(row["prompt"], row["image"].size) for row in rows] == [("a fox", (64, 64)), ("a red fox", (64, 64))]


MODEL_RECIPES = [path for path in sorted(RECIPES.glob("*.yaml")) if "examples/prompts" in path.read_text("utf-8")]


def test_every_known_checkpoint_is_in_the_docs_with_its_tags_protocol_and_license() -> None:
    page = (RECIPES.parents[1] / "docs/checkpoints.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for model in KNOWN_MODELS:
        for repository in model.repositories:
            (row,) = (row for row in rows if f"`{repository}`" in row)
            assert f"| `{model.prompt_format}` |" in row
            assert f"| {f'`{model.protocol}`' if model.protocol else 'no'} |" in row
            assert f"| {model.license} |" in row


def test_every_known_checkpoint_has_a_job_file() -> None:
    recipes = {path: read_job_file(str(path), []) for path in MODEL_RECIPES}
    rendered = {spec.model.checkpoint for spec in recipes.values()}
    for model in KNOWN_MODELS:
        assert rendered & set(model.repositories), model.name
    for path, spec in recipes.items():
        (model,) = (model for model in KNOWN_MODELS if spec.model.checkpoint in model.repositories)
        assert (spec.name, spec.output) == (path.stem, f"renders/{path.stem}")
        assert spec.model.protocol == model.protocol
