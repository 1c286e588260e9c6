"""The Llama decoder of Janus, cut down to guided generation: prefill one prompt, decode one token of all rows.

Rows are ragged: row r holds its own prompt in cache slots 0..n_r-1 and what follows in n_r, n_r+1, ...; a slot is the
rotary position of its token. No tokenizer, no sampling and no image code here.

Shapes: R rows, T cache slots or prompt tokens, L layers, C hidden channels, K key/value heads, G query heads for each
of those, D channels of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from actors.llama.attention import BagAttention, ProductAttention, attend
from actors.llama.config import LlamaShape
from actors.llama.fp8 import Fp8GatedLinear, Fp8Linear
from actors.llama.linear import GatedLinear, Linear

SEGMENT = 64  # the cache is read in whole segments: fewer shapes, and the same bits however far neighbours reach

_PREFIX = "language_model.model."

Matrix = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    attention_norm_C: torch.Tensor
    qkv: Matrix  # [(K*G + K + K) * D, C]: query, key and value heads in one matrix
    out: Matrix
    mlp_norm_C: torch.Tensor
    gate_up: Matrix
    down: Matrix


class Llama:
    """The decoder, from a checkpoint's tensors under their original-layout names, which are taken out of `weights`.

    With `is_fp8` the layers' matrices are in fp8. Raises CheckpointError where the device has none.
    """

    def __init__(self, weights: MutableMapping[str, torch.Tensor], shape: LlamaShape, *, is_fp8: bool = False) -> None:
        self.shape = shape
        self.embedding_VC = weights.pop(f"{_PREFIX}embed_tokens.weight")
        self.norm_C = weights.pop(f"{_PREFIX}norm.weight")
        prefixes = [f"{_PREFIX}layers.{index}." for index in range(shape.num_layers)]
        self.layers = [_read_layer(weights, prefix, is_fp8) for prefix in prefixes]
        self.device, self.dtype = self.embedding_VC.device, self.embedding_VC.dtype
        # A CPU attends in float32: its batched products in bfloat16 are 3 times slower than those in float32.
        self.cache_dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        self.attention = BagAttention if self.device.type == "cpu" else ProductAttention
        self.cos_TD, self.sin_TD = _rotary_tables(shape, self.device, self.cache_dtype)

    def new_cache(self, num_rows: int, num_slots: int) -> torch.Tensor:
        """Keys and values of every layer, [L, 2, R, K, T, D], all zero."""
        return torch.zeros(self.cache_size(num_rows, num_slots), dtype=self.cache_dtype, device=self.device)

    def cache_size(self, num_rows: int, num_slots: int) -> tuple[int, ...]:
        shape = self.shape
        return (shape.num_layers, 2, num_rows, shape.num_kv_heads, num_slots, shape.head_dim)

    def put_prompt(self, cache: torch.Tensor, row: int, kv: torch.Tensor) -> None:
        """What `prefill` gave into a row of a cache that is zero there."""
        self.attention.put_prompt(cache, row, kv)

    def prefill(self, x_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one prompt alone: hidden states [T, C] after the last norm, keys and values [L, 2, K, T, D]."""
        num_tokens = len(x_TC)
        cos_T1D, sin_T1D = self.cos_TD[:num_tokens, None], self.sin_TD[:num_tokens, None]
        mask_TT = torch.full((num_tokens, num_tokens), -torch.inf, device=self.device).triu(1)
        mask = mask_TT.repeat(self.shape.num_heads // self.shape.num_kv_heads, 1)  # [G * T, T]
        cached = []
        for layer in self.layers:
            q_TKGD, k_TKD, v_TKD = self._project(layer, x_TC, cos_T1D, sin_T1D)
            kv = torch.stack((k_TKD, v_TKD)).transpose(1, 2)  # [2, K, T, D]
            q = q_TKGD.permute(1, 2, 0, 3).flatten(1, 2)  # [K, G * T, D]
            attended = attend(q, kv[0], kv[1], mask).unflatten(1, (-1, num_tokens)).permute(2, 0, 1, 3)
            x_TC = self._finish(layer, x_TC, attended)
            cached.append(kv)
        return self._norm(x_TC, self.norm_C), torch.stack(cached)

    def decode(
        self, x_RC: torch.Tensor, position_R: torch.Tensor, cache: torch.Tensor, num_attended: int
    ) -> torch.Tensor:
        """One token of every row: [R, C] after the last norm. Its key and value go to slot `position_R` of the cache.

        `num_attended` is how far the cache is read at most, a multiple of SEGMENT beyond every position; what lies
        beyond a row's own position is masked. On a GPU it is the only argument that the kernels launched depend on.
        """
        cos_R1D, sin_R1D = self.cos_TD[position_R, None], self.sin_TD[position_R, None]
        attention = self.attention(position_R, num_attended, cache.shape)
        for layer, kv in zip(self.layers, cache, strict=True):
            q_RKGD, k_RKD, v_RKD = self._project(layer, x_RC, cos_R1D, sin_R1D)
            attention.put(kv, k_RKD, v_RKD)
            # One query of a group at a time: with several in a product, a CPU's bits depend on the rows and slots.
            attended = [attention.attend(q_RKD, kv) for q_RKD in q_RKGD.unbind(2)]
            x_RC = self._finish(layer, x_RC, torch.stack(attended, dim=2) if len(attended) > 1 else attended[0])
        return self._norm(x_RC, self.norm_C)

    def _project(
        self, layer: _Layer, x_RC: torch.Tensor, cos_R1D: torch.Tensor, sin_R1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [R, K, G, D], keys [R, K, D] and values [R, K, D], queries and keys rotated to their positions."""
        shape = self.shape
        qkv = layer.qkv(self._norm(x_RC, layer.attention_norm_C)).to(self.cache_dtype)
        heads = qkv.unflatten(1, (-1, shape.head_dim))
        qk = heads[:, : shape.num_heads + shape.num_kv_heads]
        # x * cos + rotate_half(x) * sin, where the sign of rotate_half stands in the sine table
        qk = torch.addcmul(qk * cos_R1D, qk.roll(shape.head_dim // 2, -1), sin_R1D)
        q_RKGD = qk[:, : shape.num_heads].unflatten(1, (shape.num_kv_heads, -1))
        return q_RKGD, qk[:, shape.num_heads :], heads[:, shape.num_heads + shape.num_kv_heads :]

    def _finish(self, layer: _Layer, x_RC: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of a layer after attention; `attended` is [R, K, G, D]."""
        x_RC = x_RC + layer.out(attended.flatten(1).to(self.dtype))
        return x_RC + layer.down(layer.gate_up(self._norm(x_RC, layer.mlp_norm_C)))

    def _norm(self, x_RC: torch.Tensor, weight_C: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x_RC, weight_C.shape, weight_C, self.shape.rms_norm_eps)


def num_slots(num_tokens: int) -> int:
    """Cache slots for rows of up to `num_tokens` tokens: whole segments."""
    return -(-num_tokens // SEGMENT) * SEGMENT


def _rotary_tables(shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, each [T, D], the first half of the sines negated."""
    channel = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / shape.rope_theta ** (channel / shape.head_dim)
    angle = torch.outer(torch.arange(shape.context_length, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1).to(device, dtype), torch.cat((-sin, sin), -1).to(device, dtype)


def _read_layer(weights: MutableMapping[str, torch.Tensor], prefix: str, is_fp8: bool) -> _Layer:
    linear: Callable[[torch.Tensor], Matrix] = Fp8Linear if is_fp8 else Linear
    gated: Callable[[torch.Tensor, torch.Tensor], Matrix] = Fp8GatedLinear if is_fp8 else GatedLinear

    def take(name: str) -> torch.Tensor:
        return weights.pop(f"{prefix}{name}.weight")

    return _Layer(
        attention_norm_C=take("input_layernorm"),
        qkv=linear(torch.cat([take(f"self_attn.{name}_proj") for name in "qkv"])),
        out=linear(take("self_attn.o_proj")),
        mlp_norm_C=take("post_attention_layernorm"),
        gate_up=gated(take("mlp.gate_proj"), take("mlp.up_proj")),
        down=linear(take("mlp.down_proj")),
    )
