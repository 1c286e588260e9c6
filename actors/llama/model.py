"""The decoder on a CPU, cut down to guided generation: prefill one prompt, decode one token of all rows.

Rows are ragged: row r holds its prompt in cache slots 0 to n_r - 1 and its new tokens from slot n_r on; a slot is the
rotary position of its token. No tokenizer, no sampling and no image code here.

Shapes: R rows, T cache slots or prompt tokens, L layers, C hidden channels, K key/value heads, G query heads for each
of those, D channels of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from actors.llama.attention import BagAttention, attend
from actors.llama.cache import PromptState, RowCache
from actors.llama.config import LlamaShape
from actors.llama.linear import GatedLinear, Linear
from actors.llama.weights import LayerWeights, rotary_tables, take_llama_weights

SEGMENT = 64  # a row's slots come in whole segments


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    attention_norm_C: torch.Tensor
    qkv: Linear  # [(K*G + K + K) * D, C]: query, key and value heads in one matrix
    out: Linear
    mlp_norm_C: torch.Tensor
    gate_up: GatedLinear
    down: Linear


class Llama:
    """The decoder, from a checkpoint's tensors under their original-layout names; they are removed from `weights`.

    Keys, values and attention are float32 in every dtype: batched products in bfloat16 are 3 times slower on a CPU.
    """

    cache_dtype = torch.float32

    def __init__(self, weights: MutableMapping[str, torch.Tensor], shape: LlamaShape) -> None:
        self.shape = shape
        tensors = take_llama_weights(weights, shape)
        self.embedding_VC, self.norm_C = tensors.embedding_VC, tensors.norm_C
        self.layers = [_pack(layer) for layer in tensors.layers]
        self.dtype = self.embedding_VC.dtype
        self.cos_TD, self.sin_TD = rotary_tables(shape, self.embedding_VC.device, torch.float32)

    def cache_size(self, num_rows: int, num_slots: int) -> tuple[int, ...]:
        """The size of the float32 tensor that a RowCache keeps its rows in."""
        shape = self.shape
        return (shape.num_layers, 2, num_rows, shape.num_kv_heads, num_slots, shape.head_dim)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[PromptState]:
        """Token ids of each prompt to its state, each prompt by itself."""
        states = []
        for ids in prompts:
            hidden_TC, kv = self.read_prompt(self.embedding_VC[torch.tensor(ids)])
            states.append(PromptState(hidden_C=hidden_TC[-1], kv=kv))
        return states

    def read(
        self, embeddings: Sequence[torch.Tensor], earlier: Sequence[torch.Tensor | None], *, chunk: int | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each sequence by itself, see `read_prompt`; `chunk` is for a GPU."""
        return [self.read_prompt(x_TC, kv) for x_TC, kv in zip(embeddings, earlier, strict=True)]

    def read_prompt(self, x_TC: torch.Tensor, earlier: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one prompt: hidden states [T, C] after the last norm, keys and values [L, 2, K, T, D].

        `earlier` are the keys and values of the tokens that it follows, [L, 2, K, earlier, D].
        """
        num_tokens, num_earlier = len(x_TC), 0 if earlier is None else earlier.shape[3]
        places = slice(num_earlier, num_earlier + num_tokens)
        cos_T1D, sin_T1D = self.cos_TD[places, None], self.sin_TD[places, None]
        mask_TS = torch.full((num_tokens, num_earlier + num_tokens), -torch.inf).triu(num_earlier + 1)
        mask = mask_TS.repeat(self.shape.num_heads // self.shape.num_kv_heads, 1)  # [G * T, earlier + T]
        cached = []
        for index, layer in enumerate(self.layers):
            q_TKGD, k_TKD, v_TKD = self._project(layer, x_TC, cos_T1D, sin_T1D)
            kv = torch.stack((k_TKD, v_TKD)).transpose(1, 2)  # [2, K, T, D]
            keys, values = kv if earlier is None else torch.cat((earlier[index], kv), dim=2)
            q = q_TKGD.permute(1, 2, 0, 3).flatten(1, 2)  # [K, G * T, D]
            attended = attend(q, keys, values, mask).unflatten(1, (-1, num_tokens)).permute(2, 0, 1, 3)
            x_TC = self._finish(layer, x_TC, attended)
            cached.append(kv)
        return self._norm(x_TC, self.norm_C), torch.stack(cached)

    def decode(self, x_RC: torch.Tensor, position_R: torch.Tensor, cache: RowCache) -> torch.Tensor:
        """One token of every row: [R, C] after the last norm. Its key and value go to slot `position_R` of its row."""
        cos_R1D, sin_R1D = self.cos_TD[position_R, None], self.sin_TD[position_R, None]
        attention = BagAttention(position_R, cache.kv.shape)
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            q_RKGD, k_RKD, v_RKD = self._project(layer, x_RC, cos_R1D, sin_R1D)
            attention.put(kv, k_RKD, v_RKD)
            # One query of a group at a time: with several in a product, bits depend on the rows and slots.
            attended = [attention.attend(q_RKD, kv) for q_RKD in q_RKGD.unbind(2)]
            x_RC = self._finish(layer, x_RC, torch.stack(attended, dim=2) if len(attended) > 1 else attended[0])
        return self._norm(x_RC, self.norm_C)

    def _project(
        self, layer: _Layer, x_RC: torch.Tensor, cos_R1D: torch.Tensor, sin_R1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [R, K, G, D], keys [R, K, D] and values [R, K, D], queries and keys rotated to their positions."""
        shape = self.shape
        qkv = layer.qkv(self._norm(x_RC, layer.attention_norm_C)).float()
        heads = qkv.unflatten(1, (-1, shape.head_dim))
        qk = heads[:, : shape.num_heads + shape.num_kv_heads]
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


def _pack(layer: LayerWeights) -> _Layer:
    return _Layer(
        attention_norm_C=layer.attention_norm_C,
        qkv=Linear(layer.qkv_XC),
        out=Linear(layer.out_CX),
        mlp_norm_C=layer.mlp_norm_C,
        gate_up=GatedLinear(layer.gate_IC, layer.up_IC),
        down=Linear(layer.down_CI),
    )
