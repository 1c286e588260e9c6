"""Every tensor of the published checkpoints is accounted for; nothing of their size is allocated here."""

from __future__ import annotations

import pytest

from actors.janus.config import read_shape
from actors.janus.network import NOT_NEEDED, original_name, tensor_shapes
from tests.support.checkpoints import published

# Counted by hand from the architecture. A text model: embedding, norm, 9 tensors a layer. The image side: embedding,
# 2 x 2 aligner, 2 x 2 head, codebook, 2 post-quant; in the decoder 2 + 2 at its ends and 2 at its norm, 17 residual
# blocks of 8 (2 more in each of the 2 that change width), 4 attentions of 10, 4 upsamplings of 2.
NUM_LLAMA = {24: 2 + 9 * 24, 30: 2 + 9 * 30}
NUM_IMAGE_SIDE = 1 + 4 + 4 + 1 + 2 + (6 + 17 * 8 + 2 * 2 + 4 * 10 + 4 * 2)
MODELS = {
    "Janus-1.3B": NUM_LLAMA[24] + NUM_IMAGE_SIDE,
    "Janus-Pro-1B": NUM_LLAMA[24] + NUM_IMAGE_SIDE,
    "Janus-Pro-7B": NUM_LLAMA[30] + NUM_IMAGE_SIDE,
}


def is_not_needed(name: str) -> bool:
    return name.startswith(tuple(NOT_NEEDED))


@pytest.mark.parametrize("model", MODELS)
def test_every_needed_tensor_is_in_the_published_checkpoint_in_its_shape(model: str) -> None:
    config, state_dict = published(model)
    expected = tensor_shapes(read_shape(config))
    assert len(expected) == MODELS[model]
    assert {name: state_dict.get(name) for name in expected} == expected


@pytest.mark.parametrize("model", MODELS)
def test_every_other_tensor_is_listed_as_not_needed(model: str) -> None:
    config, state_dict = published(model)
    expected = tensor_shapes(read_shape(config))
    assert [name for name in state_dict if name not in expected and not is_not_needed(name)] == []
    assert [name for name in expected if is_not_needed(name)] == []


def test_every_prefix_that_is_not_needed_is_in_a_published_checkpoint() -> None:
    _, state_dict = published("Janus-Pro-1B")
    assert [prefix for prefix in NOT_NEEDED if not any(name.startswith(prefix) for name in state_dict)] == []


def test_an_adapter_is_not_among_the_tensors_left_on_disk() -> None:
    assert not is_not_needed("language_model.model.layers.0.self_attn.q_proj.lora_A.weight")


@pytest.mark.parametrize(
    ("transformers_name", "name"),
    [
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "language_model.model.layers.3.mlp.up_proj.weight"),
        ("model.generation_embeddings.weight", "gen_embed.weight"),
        ("model.generation_aligner.fc1.bias", "gen_aligner.layers.0.bias"),
        ("model.generation_aligner.hidden_layers.0.bias", "gen_aligner.layers.2.bias"),
        ("model.generation_head.proj_out.weight", "gen_head.output_mlp_projector.weight"),
        ("model.generation_head.vision_head.weight", "gen_head.vision_head.weight"),
        ("model.vqmodel.decoder.mid.attn_1.q.weight", "gen_vision_model.decoder.mid.1.q.weight"),
        ("model.vqmodel.decoder.up.0.block.2.conv1.bias", "gen_vision_model.decoder.conv_blocks.0.res.2.conv1.bias"),
        ("model.vqmodel.decoder.up.0.attn.2.norm.bias", "gen_vision_model.decoder.conv_blocks.0.attn.2.norm.bias"),
        ("model.vqmodel.decoder.up.3.upsample.conv.bias", "gen_vision_model.decoder.conv_blocks.3.upsample.conv.bias"),
        ("model.vqmodel.quantize.embedding.weight", "gen_vision_model.quantize.embedding.weight"),
        ("model.vqmodel.post_quant_conv.weight", "gen_vision_model.post_quant_conv.weight"),
        ("model.vqmodel.encoder.down.0.block.0.conv1.bias", "gen_vision_model.encoder.down.0.block.0.conv1.bias"),
        ("model.vision_model.post_layernorm.bias", "vision_model.post_layernorm.bias"),
        ("model.aligner.fc1.bias", "aligner.fc1.bias"),
        ("of.neither.layout", "of.neither.layout"),
    ],
)
def test_transformers_names_lead_to_original_ones(transformers_name: str, name: str) -> None:
    assert original_name(transformers_name) == name
