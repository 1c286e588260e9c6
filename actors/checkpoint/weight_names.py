"""The names of a checkpoint's tensors: which ones generation needs, in which shape, and which it leaves on disk.

Names are those of the original layout; `original_name` turns a transformers-layout name into its original one. No
tensor has another shape or order in one layout than in the other. No torch here, and no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from actors.checkpoint.config import read_shape
from actors.checkpoint.shape import NUM_RES_BLOCKS, FlowShape, JanusShape, LlamaShape, VQShape

Shapes = dict[str, tuple[int, ...]]

# What stands in a checkpoint beside the expected tensors: prefix of the original-layout name -> what it is.
NOT_NEEDED = {
    "vision_model.": "SigLIP tower that reads images",
    "aligner.": "projection of what the SigLIP tower read",
    "gen_vision_model.encoder.": "VQ encoder",
    "gen_vision_model.quant_conv.": "VQ encoder's last layer",
    "gen_vision_model.quantize.codebook_used": "training statistics of the codebook",
    "language_model.lm_head.": "head that predicts text",
    "vision_und_enc_model.": "JanusFlow's SigLIP tower",
    "vision_und_enc_aligner.": "projection of what JanusFlow's SigLIP tower read",
    "beg_of_und_embed": "JanusFlow's mark before an image it reads",
}

# transformers layout -> original layout, the first match wins. Both layouts number the decoder's levels from the
# lowest resolution up.
_RENAMES = [
    (r"^lm_head\.", r"language_model.lm_head."),
    (r"^model\.language_model\.", r"language_model.model."),
    (r"^model\.(vision_model|aligner)\.", r"\1."),
    (r"^model\.generation_embeddings\.", r"gen_embed."),
    (r"^model\.generation_aligner\.fc1\.", r"gen_aligner.layers.0."),
    (r"^model\.generation_aligner\.hidden_layers\.0\.", r"gen_aligner.layers.2."),
    (r"^model\.generation_head\.proj_out\.", r"gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.vision_head\.", r"gen_head.vision_head."),
    (r"^model\.vqmodel\.encoder\.", r"gen_vision_model.encoder."),
    (r"^model\.vqmodel\.decoder\.mid\.block_1\.", r"gen_vision_model.decoder.mid.0."),
    (r"^model\.vqmodel\.decoder\.mid\.attn_1\.", r"gen_vision_model.decoder.mid.1."),
    (r"^model\.vqmodel\.decoder\.mid\.block_2\.", r"gen_vision_model.decoder.mid.2."),
    (r"^model\.vqmodel\.decoder\.up\.(\d+)\.block\.", r"gen_vision_model.decoder.conv_blocks.\1.res."),
    (r"^model\.vqmodel\.decoder\.up\.(\d+)\.", r"gen_vision_model.decoder.conv_blocks.\1."),
    (r"^model\.vqmodel\.", r"gen_vision_model."),
]


def expected_shapes(config: dict[str, Any]) -> Shapes:
    """Every tensor that generation needs of a checkpoint with this config.json, with its shape."""
    shape = read_shape(config)
    return dict(_janus(shape) if isinstance(shape, JanusShape) else _flow(shape))


def what_is_not_needed(name: str) -> str | None:
    """What an original-layout tensor is that generation leaves on disk; None for every other name."""
    return next((what for prefix, what in NOT_NEEDED.items() if name.startswith(prefix)), None)


def original_name(name: str) -> str:
    """The original-layout name of a transformers-layout tensor; a name of neither layout comes back unchanged."""
    for pattern, replacement in _RENAMES:
        renamed, num_matches = re.subn(pattern, replacement, name)
        if num_matches:
            return renamed
    return name


def _janus(shape: JanusShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, vq = shape.llama.hidden_size, shape.vq
    yield from _llama(shape.llama)
    yield "gen_embed.weight", (vq.codebook_size, vq.code_dim)
    yield from _affine("gen_aligner.layers.0", (hidden, vq.code_dim))
    yield from _affine("gen_aligner.layers.2", (hidden, hidden))
    yield from _affine("gen_head.output_mlp_projector", (shape.head_size, hidden))
    yield from _affine("gen_head.vision_head", (vq.codebook_size, shape.head_size))
    yield "gen_vision_model.quantize.embedding.weight", (vq.codebook_size, vq.code_dim)
    yield from _affine("gen_vision_model.post_quant_conv", (vq.z_channels, vq.code_dim, 1, 1))
    yield from _vq_decoder("gen_vision_model.decoder", vq)


def _llama(llama: LlamaShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, ffn = llama.hidden_size, llama.intermediate_size
    q_size, kv_size = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    yield "language_model.model.embed_tokens.weight", (llama.vocab_size, hidden)
    yield "language_model.model.norm.weight", (hidden,)
    for i in range(llama.num_layers):
        layer = f"language_model.model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_proj.weight", (q_size, hidden)
        yield f"{layer}.self_attn.k_proj.weight", (kv_size, hidden)
        yield f"{layer}.self_attn.v_proj.weight", (kv_size, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, q_size)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.mlp.gate_proj.weight", (ffn, hidden)
        yield f"{layer}.mlp.up_proj.weight", (ffn, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, ffn)


def _vq_decoder(name: str, vq: VQShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Levels from the lowest resolution up; only the lowest has attention, only the highest has no upsampling."""
    width = vq.channels * vq.channel_multipliers[-1]
    yield from _affine(f"{name}.conv_in", (width, vq.z_channels, 3, 3))
    yield from _res_block(f"{name}.mid.0", width, width)
    yield from _attention(f"{name}.mid.1", width)
    yield from _res_block(f"{name}.mid.2", width, width)
    for level, multiplier in enumerate(reversed(vq.channel_multipliers)):
        for i in range(NUM_RES_BLOCKS + 1):
            yield from _res_block(f"{name}.conv_blocks.{level}.res.{i}", width, vq.channels * multiplier)
            width = vq.channels * multiplier
            if level == 0:
                yield from _attention(f"{name}.conv_blocks.{level}.attn.{i}", width)
        if level < len(vq.channel_multipliers) - 1:
            yield from _affine(f"{name}.conv_blocks.{level}.upsample.conv", (width, width, 3, 3))
    yield from _affine(f"{name}.norm_out", (width,))
    yield from _affine(f"{name}.conv_out", (3, width, 3, 3))


def _res_block(name: str, width_in: int, width_out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _affine(f"{name}.norm1", (width_in,))
    yield from _affine(f"{name}.conv1", (width_out, width_in, 3, 3))
    yield from _affine(f"{name}.norm2", (width_out,))
    yield from _affine(f"{name}.conv2", (width_out, width_out, 3, 3))
    if width_in != width_out:
        yield from _affine(f"{name}.nin_shortcut", (width_out, width_in, 1, 1))


def _attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _affine(f"{name}.norm", (width,))
    for part in ("q", "k", "v", "proj_out"):
        yield from _affine(f"{name}.{part}", (width, width, 1, 1))


def _flow(shape: FlowShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, enc, dec = shape.llama.hidden_size, shape.encoder_channels, shape.decoder_channels
    yield from _llama(shape.llama)
    yield from _affine("vision_gen_enc_model.time_embed.linear_1", (hidden, enc))
    yield from _affine("vision_gen_enc_model.time_embed.linear_2", (hidden, hidden))
    yield from _affine("vision_gen_enc_model.in_conv", (enc, shape.latent_channels, 2, 2))
    for i in range(shape.num_encoder_blocks):
        yield from _convnext(f"vision_gen_enc_model.mid_block.res_blocks.{i}", enc, hidden)
    yield from _affine("vision_gen_enc_aligner", (hidden, enc))
    yield "vision_gen_dec_aligner_norm.weight", (hidden,)
    yield from _affine("vision_gen_dec_aligner", (dec, hidden))
    yield "vision_gen_dec_model.input_norm.weight", (dec,)
    for i in range(shape.num_decoder_blocks):
        yield from _convnext(f"vision_gen_dec_model.mid_block.res_blocks.{i}", dec + enc, hidden)
    yield "vision_gen_dec_model.out_convs.0.norm.weight", (dec + enc,)
    yield from _affine("vision_gen_dec_model.out_convs.0.unpatch_conv", (4 * shape.latent_channels, dec + enc, 1, 1))


def _convnext(name: str, width: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _affine(f"{name}.depthwise", (width, 1, 7, 7))
    yield f"{name}.norm.weight", (width,)
    yield from _affine(f"{name}.channelwise_linear_1", (4 * width, width))
    yield from ((f"{name}.channelwise_norm.{part}", (1, 1, 1, 4 * width)) for part in ("weight", "bias"))
    yield from _affine(f"{name}.channelwise_linear_2", (width, 4 * width))
    yield from _affine(f"{name}.cond_embeds_mapper", (2 * width, hidden))


def _affine(name: str, weight_shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A layer's weight, and its bias of one number per output channel."""
    yield f"{name}.weight", weight_shape
    yield f"{name}.bias", weight_shape[:1]
