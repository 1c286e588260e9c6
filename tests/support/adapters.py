"""Small LoRA adapters, written as PEFT saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PEFT = "base_model.model."
Q0, MLP1 = "language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.1.mlp.down_proj"


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def factors(module: str, shape: tuple[int, ...], rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        f"{PEFT}{module}.lora_A.weight": torch.randn(rank, shape[1], generator=chance),
        f"{PEFT}{module}.lora_B.weight": torch.randn(shape[0], rank, generator=chance),
    }
