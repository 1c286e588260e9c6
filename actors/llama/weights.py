"""The language model's tensors, taken from a checkpoint under their original-layout names, and its rotary tables."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import nn

from actors.layers import Embedding
from actors.llama.config import LlamaShape

_PREFIX = "language_model.model."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerWeights:
    """One layer. C hidden channels, H query and K key/value heads of D channels, I feed-forward channels."""

    attention_norm_C: torch.Tensor
    qkv_XC: torch.Tensor  # [(H + K + K) * D, C]: query, key and value heads in one matrix
    out_CX: torch.Tensor  # [C, H * D]
    mlp_norm_C: torch.Tensor
    gate_IC: torch.Tensor
    up_IC: torch.Tensor
    down_CI: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LlamaWeights:
    """The whole decoder without its text head. V vocabulary, C hidden channels."""

    embedding_VC: torch.Tensor
    layers: list[LayerWeights]
    norm_C: torch.Tensor


def take_llama_weights(weights: MutableMapping[str, torch.Tensor], shape: LlamaShape) -> LlamaWeights:
    """The decoder's tensors; they are removed from `weights`."""
    return LlamaWeights(
        embedding_VC=weights.pop(f"{_PREFIX}embed_tokens.weight"),
        norm_C=weights.pop(f"{_PREFIX}norm.weight"),
        layers=[_take_layer(weights, f"{_PREFIX}layers.{index}.") for index in range(shape.num_layers)],
    )


def rotary_tables(shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, each [T, D], the first half of the sines negated.

    With them a rotation is `x * cos + x.roll(D // 2) * sin`.
    """
    channel = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / shape.rope_theta ** (channel / shape.head_dim)
    angle = torch.outer(torch.arange(shape.context_length, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1).to(device, dtype), torch.cat((-sin, sin), -1).to(device, dtype)


def _take_layer(weights: MutableMapping[str, torch.Tensor], prefix: str) -> LayerWeights:
    def take(name: str) -> torch.Tensor:
        return weights.pop(f"{prefix}{name}.weight")

    return LayerWeights(
        attention_norm_C=take("input_layernorm"),
        qkv_XC=torch.cat([take(f"self_attn.{name}_proj") for name in "qkv"]),
        out_CX=take("self_attn.o_proj"),
        mlp_norm_C=take("post_attention_layernorm"),
        gate_IC=take("mlp.gate_proj"),
        up_IC=take("mlp.up_proj"),
        down_CI=take("mlp.down_proj"),
    )


def text_model_tensors(llama: LlamaShape) -> nn.Module:
    """The layout of the tensors as modules, for their names and shapes; nothing computes with them."""
    layers = nn.ModuleList(_text_layer(llama) for _ in range(llama.num_layers))
    embedding = Embedding(llama.vocab_size, llama.hidden_size)
    return nn.ModuleDict({"embed_tokens": embedding, "layers": layers, "norm": nn.RMSNorm(llama.hidden_size)})


def _text_layer(llama: LlamaShape) -> nn.Module:
    hidden, ffn = llama.hidden_size, llama.intermediate_size
    q_size, kv_size = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    sizes = {
        "self_attn": {"q_proj": (hidden, q_size), "k_proj": (hidden, kv_size), "v_proj": (hidden, kv_size)},
        "mlp": {"gate_proj": (hidden, ffn), "up_proj": (hidden, ffn), "down_proj": (ffn, hidden)},
    }
    sizes["self_attn"]["o_proj"] = (q_size, hidden)
    parts: dict[str, nn.Module] = {
        part: nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in matrices.items()})
        for part, matrices in sizes.items()
    }
    norms = {name: nn.RMSNorm(hidden) for name in ("input_layernorm", "post_attention_layernorm")}
    return nn.ModuleDict(parts | norms)
