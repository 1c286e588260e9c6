"""Folders that are often taken for a checkpoint: each is refused by what it is, with what to use in its place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.checkpoint.open import open_checkpoint
from actors.errors import CheckpointError
from tests.support.checkpoints import TINY


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(str(folder))
    assert len(str(refused.value)) < 400 + 2 * len(str(folder))
    return str(refused.value)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"{}")
    return path


@pytest.mark.parametrize(
    ("name", "files", "kind", "original"),
    [
        ("Janus-Pro-7B-GGUF", ["Janus-Pro-7B-Q4_K_M.gguf"], "llama.cpp (GGUF)", "deepseek-ai/Janus-Pro-7B"),
        ("mine", ["janus_pro_1b.q8.gguf", "config.json"], "llama.cpp (GGUF)", "deepseek-ai/Janus-Pro-1B"),
        ("got-r1-1b-onnx", ["config.json", "model.onnx"], "exported to ONNX", "gogoduan/GoT-R1-1B"),
        ("x", ["config.json", "weights.npz"], "weights for MLX", "such as deepseek-ai/Janus-Pro-7B"),
        ("x", ["a.gguf", "training_args.bin"], "llama.cpp (GGUF)", "such as deepseek-ai/Janus-Pro-7B"),
    ],
)
def test_weights_of_another_form_are_named(
    name: str, files: list[str], kind: str, original: str, tmp_path: Path
) -> None:
    message = refusal(folder_of(tmp_path / name, *files))
    assert kind in message
    assert message.endswith(f"use the original, {original}")


@pytest.mark.parametrize("name", ["zero_to_fp32.py", "__0_0.distcp", "global_step100"])
def test_the_parts_of_a_training_run_are_named(name: str, tmp_path: Path) -> None:
    message = refusal(folder_of(tmp_path / "run", "config.json", "latest", "optimizer.bin", name))
    assert "is the state of a training run, whose weights are in parts: gather them" in message


def test_the_last_checkpoint_of_a_training_run_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", "trainer_state.json", "checkpoint-500", "checkpoint-1000")
    assert refusal(folder).endswith(f"name one of the checkpoints in it, such as {folder}/checkpoint-1000")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantized by 'bitsandbytes'",
        ),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized by 'bitsandbytes'"),
        ({"language_config": {"quantization_config": {"quant_method": "awq"}}}, "quantized by 'awq'"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantized to 4 bits for MLX"),
        ({"model_type": "llama"}, "is a language model alone"),
    ],
)
def test_quantized_weights_and_language_models_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "Janus-Pro-7B-4bit"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    found = refusal(folder)
    assert message in found
    assert found.endswith("use the original, deepseek-ai/Janus-Pro-7B")


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ({"base_model_name_or_path": "deepseek-ai/Janus-Pro-1B"}, "deepseek-ai/Janus-Pro-1B"),
        ({"base_model_name_or_path": "x" * 5000}, "xxx"),
    ],
)
def test_an_adapter_is_refused_with_its_base_and_the_lines_to_write(
    config: dict[str, Any], base: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "lora", "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    message = refusal(folder)
    assert message.startswith(f"{folder} is an adapter (LoRA) for {base}")
    assert re.search(rf"write `checkpoint: {base}.*` and `adapter: {folder}` in the section model$", message)


def test_an_adapter_without_a_base_model_is_refused_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "lora", "adapter_config.json")
    assert f"not a model; give the model it was trained on, and `adapter: {folder}`" in refusal(folder)


def test_what_training_leaves_next_to_whole_weights_does_no_harm(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "trained"))
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "zero_to_fp32.py", "x.gguf"):
        (folder / name).write_bytes(b"anything")
    (folder / "global_step100").mkdir()
    assert open_checkpoint(str(folder)).weight_files == ("model.safetensors",)
