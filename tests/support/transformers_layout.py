"""janus-tiny as transformers would write it: its config.json and the names of its tensors, written down apart from the
program's own tables."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.checkpoints import TINY

# The order matters: the first prefix that fits is replaced.
_PREFIXES = [
    ("vision_model.vision_tower.patch_embed.proj.", "model.vision_model.embeddings.patch_embedding."),
    ("vision_model.vision_tower.norm.", "model.vision_model.post_layernorm."),
    ("vision_model.vision_tower.blocks.", "model.vision_model.encoder.layers."),
    ("aligner.layers.0.", "model.aligner.fc1."),
    ("aligner.layers.2.", "model.aligner.hidden_layers.0."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("gen_vision_model.decoder.conv_blocks.", "model.vqmodel.decoder.up."),
    ("gen_vision_model.encoder.conv_blocks.", "model.vqmodel.encoder.down."),
    ("gen_vision_model.", "model.vqmodel."),
    ("gen_embed.", "model.generation_embeddings."),
    ("gen_aligner.layers.0.", "model.generation_aligner.fc1."),
    ("gen_aligner.layers.2.", "model.generation_aligner.hidden_layers.0."),
    ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
    ("gen_head.vision_head.", "model.generation_head.vision_head."),
]


def transformers_config() -> dict[str, Any]:
    """The config.json."""
    config = json.loads((TINY / "config.json").read_text("utf-8"))
    text = {**config["language_config"], "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 96, "patch_size": 16}
    vision |= {"projection_dim": 64, "model_type": "janus_vision_model"}
    vq = {"embed_dim": 8, "num_embeddings": 64, "latent_channels": 24, "base_channels": 32}
    vq |= {"channel_multiplier": [1, 2, 1, 1, 1], "projection_dim": 64, "image_token_embed_dim": 64}
    vq |= {"model_type": "janus_vqgan", "num_patches": 6}
    return {"model_type": "janus", "text_config": text, "vision_config": vision, "vq_config": vq}


def transformers_name(name: str) -> str:
    """The name of a tensor that keeps its shape."""
    for original, renamed in _PREFIXES:
        if name.startswith(original):
            name = renamed + name.removeprefix(original)
            break
    name = re.sub(r"\.res\.(\d)\.", r".block.\1.", name)
    return re.sub(r"\.mid\.(\d)\.", lambda m: f".mid.{('block_1', 'attn_1', 'block_2')[int(m[1])]}.", name)
