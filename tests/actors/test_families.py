"""A new model family is one package and one entry of the table: nothing else of the program has to know it."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.engines import open_engine
from actors.errors import CheckpointError
from actors.families import FAMILIES, Family
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from tests.support.checkpoints import TINY
from tests.support.command_line import Command
from tests.support.toy_job import plan_job, write_prompts
from workflows.rows import read_shard

ROOT = Path(__file__).parents[2]
NUM_COLORS, IMAGE_SIZE = 8, 24


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the family `stripes`, and the family's one entry."""
    entry = Family(
        engine="tests.support.stripes.engine:StripesEngine",
        config="tests.support.stripes.config",
        checkpoints="stripes (model_type stripes)",
        sampler="stripes-1",
        default_cfg_weight=3.0,
        settings={"temperature": 0.5},
        default_prompt_format="janus",
    )
    monkeypatch.setitem(FAMILIES, "stripes", entry)
    folder = tmp_path / "stripes"
    folder.mkdir()
    config = {"model_type": "stripes", "num_colors": NUM_COLORS, "image_size": IMAGE_SIZE}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(TINY / "tokenizer.json", folder / "tokenizer.json")
    save_file({"colors.weight": torch.arange(NUM_COLORS * 3.0).view(-1, 3)}, folder / "model.safetensors")
    return folder


def fields(tmp_path: Path, checkpoint: Path, **sections: dict) -> dict:
    """A job file of two prompts."""
    prompts = write_prompts(tmp_path / "prompts/a.parquet", {"prompt": ["a red square", "a blue circle"]})
    model = {"checkpoint": str(checkpoint)}
    return {"prompts": prompts, "output": str(tmp_path / "out"), "model": model, **sections}


def test_a_job_of_a_new_family_is_resolved_and_rendered(tmp_path: Path, checkpoint: Path) -> None:
    job = resolve(check_fields(fields(tmp_path, checkpoint)), num_gpus=0)
    assert (job.recipe.family, job.recipe.sampler, job.recipe.cfg_weights) == ("stripes", "stripes-1", (3.0,))
    (shard,) = plan_job(job).remaining_shards()
    requests = read_shard(job, shard).requests
    assert [request.temperature for request in requests] == [0.5, 0.5]

    images = open_engine(job.recipe, job.storage).render(requests)

    assert [image.image_id for image in images] == [request.image_id for request in requests]
    for image in images:
        assert image.pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert np.array_equal(image.pixels[:2, 0], np.arange(NUM_COLORS * 3).reshape(-1, 3)[image.codes])


def test_plan_and_doctor_know_a_new_family(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, monkeypatch, capsys)
    command.write(**fields(tmp_path, checkpoint))

    code, planned, _ = command("plan", str(command.job_file))
    assert code == 0
    assert f"{checkpoint} (stripes)" in planned

    code, examined, _ = command("doctor", str(checkpoint))
    assert "ok     family                 stripes, original layout" in examined
    assert (code, examined.splitlines()[-1]) == (0, "no fault found")


def test_a_tensor_that_a_new_family_does_not_have_is_named(checkpoint: Path, tmp_path: Path) -> None:
    save_file({"colors.weight": torch.eye(NUM_COLORS, 3), "bias": torch.zeros(1)}, checkpoint / "model.safetensors")
    job = resolve(check_fields(fields(tmp_path, checkpoint)), num_gpus=0)

    with pytest.raises(CheckpointError, match=r"holds 1 tensor that no stripes model has: bias$"):
        open_engine(job.recipe, {})


def test_only_the_table_and_the_families_packages_compare_family_names() -> None:
    allowed = {ROOT / "actors" / "families.py", ROOT / "actors" / "toy.py"}
    sources = [path for room in ("actors", "workflows", "jobs", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    packages = [ROOT / "actors" / family for family in FAMILIES]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources
        if path not in allowed and not any(path.is_relative_to(package) for package in packages)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in FAMILIES
    ]
    assert found == []
