"""The decoder on a GPU: the tokens of all rows form one matrix, and a layer is eight kernels.

Add and norm, query/key/value product, attention, output product, add and norm, gate/up product, SiLU gate, down
product. A token's bits do not depend on its neighbors: a decode step multiplies with `matmul`, whose bits do not depend
on the number of rows; the other products have a fixed number of rows.

Shapes: R rows, T tokens, L layers, C hidden channels, H query heads, K key/value heads, D channels of a head, S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from actors.device import send
from actors.errors import CheckpointError
from actors.kernels.attention import attend
from actors.kernels.matmul import matmul
from actors.kernels.norm import add_norm
from actors.kernels.rotary import rotate_and_store
from actors.kernels.silu import silu_mul
from actors.llama.cache import PagedCache, PromptState
from actors.llama.config import LlamaShape
from actors.llama.packing import Packing, attend_packed, pack
from actors.llama.weights import LayerWeights, rotary_tables, take_llama_weights

CHUNK = 2048  # tokens of every prefill call: one shape for every product
MAX_SLOTS = 4 * CHUNK  # keys and values of a call with those of earlier tokens: 1.6 GB in a model of 1B, 4 GB of 7B

# (layer, qkv [T, (H + K + K) * D]) -> [T, H * D]
Attention = Callable[[int, torch.Tensor], torch.Tensor]
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layer:
    attention_norm_C: torch.Tensor
    qkv_XC: torch.Tensor
    out_CX: torch.Tensor
    mlp_norm_C: torch.Tensor
    gate_up_XC: torch.Tensor
    down_CI: torch.Tensor


class PackedLlama:
    """The decoder, from a checkpoint's tensors under their original-layout names; they are removed from `weights`.

    `cache_dtype` is that of keys and values in a decode step, fp8 or (None) the weights'. Raises CheckpointError for a
    head size that the kernels cannot hold.
    """

    def __init__(
        self,
        weights: MutableMapping[str, torch.Tensor],
        shape: LlamaShape,
        *,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        if shape.head_dim & (shape.head_dim - 1):
            raise CheckpointError(f"On a GPU a head has 2, 4, 8, ... channels (a power of two), got {shape.head_dim}")
        self.shape = shape
        tensors = take_llama_weights(weights, shape)
        self.embedding_VC, self.norm_C = tensors.embedding_VC, tensors.norm_C
        self.layers = [_fuse(layer) for layer in tensors.layers]
        self.device, self.dtype = self.embedding_VC.device, self.embedding_VC.dtype
        self.cache_dtype = cache_dtype or self.dtype
        self.cos_PD, self.sin_PD = rotary_tables(shape, self.device, torch.float32)

    def decode(self, x_RC: torch.Tensor, position_R: torch.Tensor, cache: PagedCache) -> torch.Tensor:
        """One token of every row: [R, C] after the last norm. Its key and value go to slot `position_R` of its row.

        Rows at a negative position are empty: their output has no meaning and they write nothing. What is launched
        depends on the number of rows alone.
        """
        pool, tables = cache.pool, (self.cos_PD, self.sin_PD)

        def attention(layer: int, qkv_RX: torch.Tensor) -> torch.Tensor:
            scales = None if pool.scales is None else pool.scales[layer]
            return attend(qkv_RX, pool.kv[layer], scales, cache.table_RM, position_R, *tables)

        return self._run_layers(x_RC, attention, matmul)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[PromptState]:
        """Token ids of each prompt to its state; a prompt's bits do not depend on its company."""
        if not prompts:
            return []
        ids_T = send(torch.tensor([token for ids in prompts for token in ids]), self.device)
        read = self.read(self.embedding_VC[ids_T].split([len(ids) for ids in prompts]), [None] * len(prompts))
        return [PromptState(hidden_C=hidden_TC[-1].clone(), kv=kv) for hidden_TC, kv in read]

    def read(
        self, embeddings: Sequence[torch.Tensor], earlier: Sequence[torch.Tensor | None], *, chunk: int | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Embeddings [T, C] of each sequence to hidden states [T, C] after the last norm and kv [L, 2, K, T, D].

        `earlier` are the keys and values of the tokens that a sequence follows, [L, 2, K, earlier, D], or None. A call
        has `chunk` (CHUNK) tokens, the missing ones as one more sequence, which the model must have positions for; a
        longer sequence has as many chunks as it needs to itself. So a sequence's bits do not depend on its company.
        """
        chunk = min(chunk or CHUNK, self.shape.context_length)
        num_new = [len(x_TC) for x_TC in embeddings]
        num_earlier = [0 if kv is None else kv.shape[3] for kv in earlier]
        answers = []
        for start, stop in _calls(num_new, num_earlier, chunk):
            answers += self._read_chunk(embeddings[start:stop], earlier[start:stop], chunk)
        return answers

    def run(self, x_TC: torch.Tensor, packing: Packing, kv: torch.Tensor) -> torch.Tensor:
        """Packed tokens through all layers: [T, C] after the last norm. `kv` [L, 2, S, K, D] takes keys and values.

        Slots of earlier tokens are filled already. A token's bits depend on its sequence and on T.
        """

        def attention(layer: int, qkv_TX: torch.Tensor) -> torch.Tensor:
            tables = (self.cos_PD, self.sin_PD)
            q_THD = rotate_and_store(qkv_TX, kv[layer], packing.position_T, packing.slot_T, *tables)
            return attend_packed(q_THD, kv[layer], packing).flatten(1)

        return self._run_layers(x_TC, attention, F.linear)

    def new_slots(self, num_slots: int) -> torch.Tensor:
        """Memory for keys and values, [L, 2, S, K, D]."""
        shape = self.shape
        size = (shape.num_layers, 2, num_slots, shape.num_kv_heads, shape.head_dim)
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def _run_layers(self, x_TC: torch.Tensor, attention: Attention, product: Product) -> torch.Tensor:
        eps, y_TC = self.shape.rms_norm_eps, None
        for index, layer in enumerate(self.layers):
            x_TC, normed_TC = add_norm(x_TC, y_TC, layer.attention_norm_C, eps)
            attended_TX = attention(index, product(normed_TC, layer.qkv_XC))
            x_TC, normed_TC = add_norm(x_TC, product(attended_TX, layer.out_CX), layer.mlp_norm_C, eps)
            y_TC = product(silu_mul(product(normed_TC, layer.gate_up_XC)), layer.down_CI)
        return add_norm(x_TC, y_TC, self.norm_C, eps)[1]

    def _read_chunk(
        self, embeddings: Sequence[torch.Tensor], earlier: Sequence[torch.Tensor | None], chunk: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        num_new = [len(x_TC) for x_TC in embeddings]
        num_earlier = [0 if kv is None else kv.shape[3] for kv in earlier]
        filling = self.embedding_VC[:1].expand(-sum(num_new) % chunk, -1)
        if len(filling):
            packing = pack([*num_earlier, 0], [*num_new, len(filling)], [*num_earlier, 0], self.device)
        else:
            packing = pack(num_earlier, num_new, num_earlier, self.device)
        kv = self.new_slots(sum(packing.num_slots))
        parts = kv.split(packing.num_slots, dim=2)[: len(num_new)]
        for slots, known, length in zip(parts, earlier, num_earlier, strict=True):
            if known is not None:
                slots[:, :, :length] = known.transpose(2, 3)
        hidden_TC = self.run(torch.cat([*embeddings, filling]), packing, kv)
        return [
            (hidden.clone(), slots[:, :, length:].transpose(2, 3).contiguous())
            for hidden, slots, length in zip(hidden_TC[: sum(num_new)].split(num_new), parts, num_earlier, strict=True)
        ]


def _fuse(layer: LayerWeights) -> _Layer:
    return _Layer(
        attention_norm_C=layer.attention_norm_C,
        qkv_XC=layer.qkv_XC,
        out_CX=layer.out_CX,
        mlp_norm_C=layer.mlp_norm_C,
        gate_up_XC=torch.cat((layer.gate_IC, layer.up_IC)),
        down_CI=layer.down_CI,
    )


def _calls(num_new: Sequence[int], num_earlier: Sequence[int], chunk: int) -> Iterator[tuple[int, int]]:
    """The sequences in order, as many at a time as fit into a chunk and into MAX_SLOTS: start and stop of each call."""
    start = num_tokens = num_slots = 0
    for index, (new, earlier) in enumerate(zip(num_new, num_earlier, strict=True)):
        if index > start and (num_tokens + new > chunk or num_slots + new + earlier > MAX_SLOTS):
            yield start, index
            start, num_tokens, num_slots = index, 0, 0
        num_tokens, num_slots = num_tokens + new, num_slots + new + earlier
    if len(num_new) > start:
        yield start, len(num_new)
