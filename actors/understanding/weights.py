"""The tensors that looking at images needs beyond generation, read from a checkpoint of any layout.

They get the names of `VisionEncoder`, `lm_head.weight`, and for JanusFlow `begin_of_image` (the embedding that takes
the place of the token `<begin_of_image>`). The transformers layout splits a block's queries, keys and values into
three tensors, and its position table has another shape.
"""

from __future__ import annotations

import re

import torch

from actors.checkpoint.open import Checkpoint
from actors.checkpoint.weights import Shapes, load_weights, shapes_of
from actors.janus.network import EMBEDDING, TEXT_HEAD, original_name
from actors.llama.config import LlamaShape, is_head_tied
from actors.llama.weights import text_model_tensors
from actors.understanding.config import VisionShape
from actors.understanding.vision import VisionEncoder

LM_HEAD = "lm_head.weight"
BEGIN_OF_IMAGE = "begin_of_image"
TEXT_MODEL = "language_model.model."

# Tensors of a checkpoint that looking leaves on disk, by the prefix of their original-layout name.
NOT_NEEDED = {
    "gen_": "generation of Janus",
    "vision_gen_": "generation of JanusFlow",
    "vision_model.vision_tower.attn_pool.": "pooling head of the tower, which no model runs",
    "vision_und_enc_model.vision_tower.attn_pool.": "the same of JanusFlow",
}

# Our name -> the stored name, after `original_name` for the transformers layout; the first match wins.
_STORED_NAMES = {
    "original": [
        (r"^tower\.", r"vision_model.vision_tower."),
        (r"^aligner\.", r"aligner.layers."),
        (r"^lm_head\.", r"language_model.lm_head."),
    ],
    "flow": [
        (r"^tower\.", r"vision_und_enc_model.vision_tower."),
        (r"^aligner\.0\.", r"vision_und_enc_aligner."),
        (r"^lm_head\.", r"language_model.lm_head."),
        (r"^begin_of_image$", r"beg_of_und_embed"),
    ],
    "transformers": [
        (r"^tower\.patch_embed\.proj\.", r"vision_model.embeddings.patch_embedding."),
        (r"^tower\.pos_embed$", r"vision_model.embeddings.position_embedding.weight"),
        (r"^tower\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
        (r"^tower\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection_layer."),
        (r"^tower\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
        (r"^tower\.blocks\.", r"vision_model.encoder.layers."),
        (r"^tower\.norm\.", r"vision_model.post_layernorm."),
        (r"^aligner\.0\.", r"aligner.fc1."),
        (r"^aligner\.(\d+)\.", lambda match: f"aligner.hidden_layers.{int(match[1]) // 2 - 1}."),
        (r"^lm_head\.", r"language_model.lm_head."),
    ],
}


def read_vision_weights(
    checkpoint: Checkpoint,
    shape: VisionShape,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    with_text_model: bool,
) -> dict[str, torch.Tensor]:
    """The tensors of a fetched checkpoint that looking needs, in `dtype` on `device`. Raises CheckpointError.

    `with_text_model` also reads the text model, under its original-layout names; it is left on disk where an engine
    already has it.
    """
    ours = tensor_shapes(shape, checkpoint.shape.llama.vocab_size)
    stored = {name: _stored_shapes(name, size, shape) for name, size in ours.items()}
    expected = {part: size for parts in stored.values() for part, size in parts.items()}
    not_needed = NOT_NEEDED if with_text_model else NOT_NEEDED | {TEXT_MODEL: "the text model, which is there already"}
    if with_text_model:
        expected |= _text_model_shapes(checkpoint.shape.llama)
    weights = load_weights(
        checkpoint,
        expected,
        not_needed=not_needed,
        tied={TEXT_HEAD: EMBEDDING} if is_head_tied(checkpoint.config, checkpoint.layout) else {},
        rename=original_name if shape.layout == "transformers" else str,
        rename_in_adapters=original_name,
        dtype=dtype,
        device=device,
    )
    taken = {name: _joined([weights.pop(part) for part in parts]).view(ours[name]) for name, parts in stored.items()}
    return taken | weights


def tensor_shapes(shape: VisionShape, vocab_size: int) -> Shapes:
    """Our name and the shape of every tensor that looking needs beyond the text model."""
    with torch.device("meta"):
        shapes = shapes_of(VisionEncoder(shape))
    shapes[LM_HEAD] = (vocab_size, shape.hidden_size)
    if shape.embeds_begin_of_image:
        shapes[BEGIN_OF_IMAGE] = (1, shape.hidden_size)
    return shapes


def stored_shapes(shape: VisionShape, vocab_size: int) -> Shapes:
    """The same by their names in a checkpoint of this layout, after `original_name`."""
    ours = tensor_shapes(shape, vocab_size)
    return {
        part: size for name, ours_size in ours.items() for part, size in _stored_shapes(name, ours_size, shape).items()
    }


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _text_model_shapes(llama: LlamaShape) -> Shapes:
    with torch.device("meta"):
        return {f"{TEXT_MODEL}{name}": size for name, size in shapes_of(text_model_tensors(llama)).items()}


def _stored_shapes(name: str, size: tuple[int, ...], shape: VisionShape) -> Shapes:
    """The stored tensors that one of ours consists of, in the order of its rows."""
    stored = _stored_name(name, shape)
    if shape.layout == "transformers":
        if ".attn.qkv." in name:
            parts = (stored.replace(".qkv.", f".{part}_proj.") for part in "qkv")
            return dict.fromkeys(parts, (size[0] // 3, *size[1:]))
        if name == "tower.pos_embed":
            return {stored: size[1:]}
    return {stored: size}


def _stored_name(name: str, shape: VisionShape) -> str:
    for pattern, replacement in _STORED_NAMES[shape.layout]:
        renamed, num_matches = re.subn(pattern, replacement, name)
        if num_matches:
            return renamed
    raise AssertionError(f"{name} has no stored name")
