"""Shared by the tests of the Janus engine: the tiny checkpoint, larger random ones, recipes and requests.

`tests/data/goldens/janus_*.npz` were made with the reference implementation (deepseek-ai/Janus, commit 1daa72f) in
float32 on the checkpoint in `tests/data/janus-tiny`.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from actors.janus.config import read_shape
from actors.janus.decode_loop import Choose
from actors.janus.engine import JanusEngine
from actors.janus.network import tensor_shapes
from actors.recipe import Recipe
from actors.request import ImageRequest
from tests.support.checkpoints import DATA, TINY, fetched

GOLDENS = DATA / "goldens"
PROMPTS = [entry["prompt"] for entry in json.loads((GOLDENS / "janus_prompts.json").read_text("utf-8"))["prompts"]]


def engine(folder: Path = TINY, *, grid_size: int | None = None, **settings: Any) -> JanusEngine:
    fields: dict[str, Any] = {
        "family": "janus",
        "checkpoint": "janus-tiny",
        "revision": None,
        "weights_sha256": "",
        "prompt_format": "janus-pro",
        "vae": None,
        "vae_revision": None,
        "vae_sha256": None,
        "dtype": "float32",
        "sampler": "janus-3",
        "cfg_weights": (5.0,),
        "temperature": 1.0,
        "num_inference_steps": None,
        "images_per_prompt": 1,
        "seed": 0,
    }
    recipe = Recipe(**fields | settings)
    return JanusEngine(recipe, fetched(folder, recipe.prompt_format, recipe.prompt_template), grid_size=grid_size)


def request(prompt: str, **fields: Any) -> ImageRequest:
    defaults: dict[str, Any] = {
        "image_id": "image",
        "prompt_id": "prompt",
        "image_index": 0,
        "seed": 0,
        "cfg_weight": 5.0,
        "temperature": 0.0,
    }
    return ImageRequest(prompt=prompt, **defaults | fields)


@torch.inference_mode()
def decode(janus: JanusEngine, requests: list[ImageRequest], choose: Choose) -> torch.Tensor:
    """The images' codes [B, N] on the CPU, chosen by `choose` there."""
    states = janus.prefill([janus.tokenize(request) for request in requests])

    def choose_here(step: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        codes_B = choose(step.cpu(), logits_BV[: len(requests)].cpu())
        return F.pad(codes_B, (0, len(logits_BV) - len(requests)))  # on a GPU a batch has more images than asked for

    loop = janus.loops.loop_for(len(requests), states, choose_here)
    return torch.stack([*janus.decode_tokens(loop, requests, states)], dim=1)[: len(requests)].cpu()


def mixed_requests(num: int) -> list[ImageRequest]:
    """Requests that differ in everything a batch may mix, prompt lengths above all."""
    chance = random.Random(0)
    return [
        request(
            chance.choice(PROMPTS) + " and so on" * chance.randrange(9),
            image_id=str(seed),
            cfg_weight=chance.choice([1.0, 2.0, 5.0, 7.5]),
            temperature=chance.choice([0.0, 0.7, 1.0, 1.0]),
            seed=seed,
            negative_prompt=chance.choice([None, None, "blue", "a long list of what is not wanted"]),
        )
        for seed in range(num)
    ]


def write_random_checkpoint(
    folder: Path, *, hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, intermediate_size: int
) -> Path:
    """A checkpoint of another text model than the tiny one's, its weights random, its vocabulary and grid the same."""
    config = json.loads((TINY / "config.json").read_text("utf-8"))
    config["language_config"] |= {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "intermediate_size": intermediate_size,
    }
    config["gen_aligner_config"]["params"]["n_embed"] = hidden_size
    config["gen_head_config"]["params"] |= {"n_embed": hidden_size, "image_token_embed": hidden_size}
    chance = torch.Generator().manual_seed(0)
    weights = {name: _random(size, chance) for name, size in tensor_shapes(read_shape(config)).items()}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copyfile(TINY / "tokenizer.json", folder / "tokenizer.json")
    save_file(weights, folder / "model.safetensors")
    return folder


def _random(size: tuple[int, ...], chance: torch.Generator) -> torch.Tensor:
    """Normalization weights around 1; matrices and convolutions that keep the scale of what they multiply, doubled."""
    noise = torch.randn(size, generator=chance)
    if len(size) == 1:
        return 1 + noise / 8
    num_summed = torch.Size(size[1:]).numel()
    return noise * (2 / num_summed**0.5)
