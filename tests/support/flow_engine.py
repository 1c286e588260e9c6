"""Shared by the tests of the JanusFlow engine: the tiny checkpoint, its goldens, recipes and requests.

`tests/data/goldens/flow*.npz` were made with the reference implementation (deepseek-ai/Janus, commit 1daa72f) in
float32 on the checkpoint in `tests/data/janusflow-tiny`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.network import FlowNetwork, build_network, read_weights
from actors.recipe import Recipe
from actors.request import ImageRequest, RenderedImage
from tests.support.checkpoints import DATA, FLOW, fetched, fetched_vae

GOLDENS = DATA / "goldens"
TINY = FLOW
PROMPTS = json.loads((GOLDENS / "flow_prompts.json").read_text("utf-8"))["prompts"]


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / name) as arrays:
        return dict(arrays)


def engine(folder: Path = TINY, *, latent_size: int | None = None, **settings: Any) -> JanusFlowEngine:
    fields: dict[str, Any] = {
        "family": "janusflow",
        "checkpoint": "janusflow-tiny",
        "revision": None,
        "weights_sha256": "",
        "prompt_format": "janus",
        "vae": "vae",
        "vae_revision": None,
        "vae_sha256": "",
        "dtype": "float32",
        "sampler": "janusflow-2",
        "cfg_weights": (2.0,),
        "temperature": None,
        "num_inference_steps": 30,
        "images_per_prompt": 1,
        "seed": 0,
    }
    recipe = Recipe(**fields | settings)
    checkpoint = fetched(folder, recipe.prompt_format)
    return JanusFlowEngine(recipe, checkpoint, fetched_vae(checkpoint), latent_size=latent_size)


def tiny_network(dtype: torch.dtype = torch.float32) -> FlowNetwork:
    checkpoint = fetched(TINY)
    weights = read_weights(checkpoint, dtype=dtype, device="cpu")
    return build_network(weights, checkpoint.shape, checkpoint.shape.latent_size)


def request(prompt: str = "a red cube", **fields: Any) -> ImageRequest:
    defaults: dict[str, Any] = {
        "image_id": "image",
        "prompt_id": "prompt",
        "image_index": 0,
        "seed": 0,
        "cfg_weight": 2.0,
        "num_inference_steps": 30,
    }
    return ImageRequest(prompt=prompt, **defaults | fields)


def assert_same_bytes(image: RenderedImage, expected: RenderedImage) -> None:
    assert image.image_id == expected.image_id
    assert image.latents.tobytes() == expected.latents.tobytes()
    assert image.pixels.tobytes() == expected.pixels.tobytes()
