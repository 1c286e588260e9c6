"""Llama decoders of any shape with random weights, for the tests of the decoder and of the engine."""

from __future__ import annotations

from typing import Any

import torch

from actors.llama.config import LlamaShape
from actors.llama.model import Llama


def llama_shape(**fields: Any) -> LlamaShape:
    defaults: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "context_length": 1024,
    }
    return LlamaShape(**defaults | fields)


def random_weights(shape: LlamaShape, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights under their original-layout names, large enough that attention looks at some keys more than at others."""
    chance = torch.Generator().manual_seed(0)
    prefix, hidden, head_dim = "language_model.model.", shape.hidden_size, shape.head_dim
    sizes = {
        "self_attn.q_proj": (shape.num_heads * head_dim, hidden),
        "self_attn.k_proj": (shape.num_kv_heads * head_dim, hidden),
        "self_attn.v_proj": (shape.num_kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, shape.num_heads * head_dim),
        "mlp.gate_proj": (shape.intermediate_size, hidden),
        "mlp.up_proj": (shape.intermediate_size, hidden),
        "mlp.down_proj": (hidden, shape.intermediate_size),
    }
    weights = {"embed_tokens": torch.randn(shape.vocab_size, hidden, generator=chance)}
    for index in range(shape.num_layers):
        for name, size in sizes.items():
            weights[f"layers.{index}.{name}"] = torch.randn(size, generator=chance) * (2 / size[1] ** 0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"layers.{index}.{name}"] = 1 + torch.randn(hidden, generator=chance) / 8
    weights["norm"] = 1 + torch.randn(hidden, generator=chance) / 8
    return {f"{prefix}{name}.weight": tensor.to(dtype) for name, tensor in weights.items()}


def transformers_llama_config(shape: LlamaShape) -> Any:
    """The same shape as transformers' configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        rms_norm_eps=shape.rms_norm_eps,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=False,
    )


def random_llama(shape: LlamaShape, dtype: torch.dtype = torch.float32) -> Llama:
    return Llama(random_weights(shape, dtype), shape)
