"""Shared by the tests of understanding: the tiny checkpoints in every layout, and the reference's numbers for both.

`tests/data/goldens/understanding.npz` was made with the reference implementation (deepseek-ai/Janus, commit 1daa72f) in
float32 on the checkpoints in `tests/data`; `understanding_prompts.json` has its questions, prompts and answers.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from actors.checkpoint.files import read_json
from actors.checkpoint.open import Checkpoint
from actors.understanding.config import read_vision_shape
from actors.understanding.pixels import PixelSettings, read_pixel_settings
from actors.understanding.vision import VisionEncoder
from actors.understanding.weights import read_vision_weights
from tests.support.checkpoints import DATA, FLOW, TINY
from tests.support.transformers_layout import transformers_config, transformers_name

TINY_OF_FAMILY = {"janus": TINY, "flow": FLOW}
NUM_IMAGES = 6
INFO = json.loads((DATA / "goldens" / "understanding_prompts.json").read_text("utf-8"))
QUESTIONS, ANSWERS = INFO["questions"], INFO["answers"]["order"]


@functools.cache
def goldens() -> dict[str, np.ndarray]:
    with np.load(DATA / "goldens" / "understanding.npz") as arrays:
        return dict(arrays)


def images() -> list[np.ndarray]:
    return [goldens()[f"image{index}"] for index in range(NUM_IMAGES)]


def pixel_settings(folder: Path = TINY) -> PixelSettings:
    return read_pixel_settings(json.loads((folder / "preprocessor_config.json").read_text("utf-8")), 96)


def encoder_of(checkpoint: Checkpoint) -> VisionEncoder:
    """The vision encoder of a checkpoint in float32."""
    assert checkpoint.folder is not None
    shape = read_vision_shape(read_json(checkpoint.folder, "config.json"))
    weights = read_vision_weights(checkpoint, shape, dtype=torch.float32, device="cpu", with_text_model=False)
    encoder = VisionEncoder(shape)
    encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    return encoder.requires_grad_(False)


def write_transformers_layout(folder: Path) -> Path:
    """janus-tiny as transformers writes it, with its tokenizer."""
    shutil.copytree(TINY, folder)
    (folder / "config.json").write_text(json.dumps(transformers_config()), "utf-8")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(TINY / "model.safetensors").items():
        tensors |= _as_transformers(name, tensor)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _as_transformers(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if ".attn_pool." in name:
        return {}
    if name == "vision_model.vision_tower.pos_embed":
        return {"model.vision_model.embeddings.position_embedding.weight": tensor[0].clone()}
    name = transformers_name(name)
    if name.startswith("model.vision_model.encoder."):
        name = re.sub(r"\.norm([12])\.", r".layer_norm\1.", name)
        name = name.replace(".attn.proj.", ".self_attn.projection_layer.")
        if ".attn.qkv." in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            return {name.replace(".attn.qkv.", f".self_attn.{part}_proj."): rows.clone() for part, rows in parts}
    return {name: tensor}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}
