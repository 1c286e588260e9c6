"""Adapters with NaN or infinite numbers, and those that change nothing, are named before an engine is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.checkpoint.models import open_models
from actors.checkpoint.open import fetch_checkpoint
from actors.checkpoint.values import check_values
from actors.engines import start_engine
from actors.errors import CheckpointError
from actors.recipe import Adapter
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from tests.support.adapters import MLP1, PEFT, Q0, factors, write_adapter
from tests.support.checkpoints import TINY

A, B = f"{PEFT}{Q0}.lora_A.weight", f"{PEFT}{Q0}.lora_B.weight"
MAGNITUDES = f"{PEFT}{Q0}.lora_magnitude_vector"
GOOD = factors(Q0, (64, 64))
VISION = factors("vision_model.vision_tower.blocks.0.attn.proj", (64, 64))


def changed(name: str, value: float) -> dict[str, torch.Tensor]:
    tensors = {key: tensor.clone() for key, tensor in GOOD.items()}
    tensors[name].view(-1)[-1] = value
    return tensors


def of_zeros(tensors: dict[str, torch.Tensor], ending: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(one) if name.endswith(ending) else one for name, one in tensors.items()}


def faults_of(folder: Path, *uses: str) -> list[str]:
    checkpoint, _ = open_models(str(TINY), adapters=[Adapter(name=str(folder))])
    return [one.detail for one in check_values(fetch_checkpoint(checkpoint), uses) if not one.is_ok]


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (changed(A, torch.nan), f"{A} has NaN or infinite numbers"),
        (changed(B, torch.inf), f"{B} has NaN or infinite numbers"),
        ({A: changed(A, -torch.inf)[A].half(), B: GOOD[B].bfloat16()}, f"{A} has NaN or infinite numbers"),
        (GOOD | {MAGNITUDES: torch.full((64,), torch.nan)}, f"{MAGNITUDES} has NaN or infinite numbers"),
        ({f"{PEFT}{Q0}.weight": torch.full((64, 64), torch.nan)}, f"{PEFT}{Q0}.weight has NaN or infinite numbers"),
        ({name: one * 1e30 for name, one in GOOD.items()}, f"{B} @ lora_A is beyond float32"),
        (of_zeros(GOOD, "lora_B.weight"), "each of its products lora_B @ lora_A is 0: it changes nothing"),
        (of_zeros(GOOD, "lora_A.weight"), "each of its products lora_B @ lora_A is 0: it changes nothing"),
    ],
)
def test_what_no_training_leaves_in_an_adapter_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], fault: str
) -> None:
    folder = write_adapter(tmp_path / "lora", tensors)

    (found,) = faults_of(folder, "rendering", "looking")

    assert found.startswith(f"{folder}: {fault}")


@pytest.mark.parametrize(
    "tensors",
    [
        GOOD,
        of_zeros(GOOD, "lora_B.weight") | factors(MLP1, (64, 96), seed=1),
        of_zeros(GOOD, "lora_B.weight") | {MAGNITUDES: torch.ones(64)},
        GOOD | {name: torch.full_like(one, torch.nan) for name, one in VISION.items()},
    ],
    ids=["factors", "one product of zeros", "magnitudes alone", "NaN in what rendering does not use"],
)
def test_what_training_may_leave_in_an_adapter_is_no_fault(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    assert faults_of(write_adapter(tmp_path / "lora", tensors), "rendering") == []


def test_an_adapter_with_an_alpha_of_0_changes_nothing(tmp_path: Path) -> None:
    (found,) = faults_of(write_adapter(tmp_path / "lora", GOOD, lora_alpha=0), "rendering")
    assert "it changes nothing" in found


def test_a_job_with_such_an_adapter_is_refused_unless_faults_are_allowed(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", of_zeros(GOOD, "lora_B.weight"))
    model = {"checkpoint": str(TINY), "adapter": str(folder)}
    spec = check_fields({"prompts": "prompts.parquet", "output": str(tmp_path / "out"), "model": model})
    recipe = resolve(spec, num_gpus=0).recipe
    models = open_models(str(TINY), adapters=recipe.adapters)

    with pytest.raises(CheckpointError, match=r"is faulty \(numbers of the adapter: .*lora: each of its products"):
        start_engine(recipe, *models)
    assert start_engine(recipe, *models, allow_faults=True)
