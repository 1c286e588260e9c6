"""Sequences of several lengths as one matrix of tokens, and attention among the tokens of each.

Shapes: N sequences, T tokens of all, S slots of all, H query heads, K key/value heads, D channels of a head.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

# Without splits a sequence's bits do not depend on the longest one. Before torch 2.13 there are none and no argument.
_NO_SPLITS = {"num_splits": 1} if "num_splits" in inspect.signature(varlen_attn).parameters else {}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """Where the tokens and the slots of each sequence are.

    A sequence's new tokens take the last of its slots; those before hold the keys and values of earlier tokens.
    `token_ends` and `slot_ends` are int32 [N + 1] and begin with 0; `position_T` and `slot_T` are int64.
    """

    num_tokens: tuple[int, ...]
    num_slots: tuple[int, ...]
    token_ends: torch.Tensor
    slot_ends: torch.Tensor
    position_T: torch.Tensor
    slot_T: torch.Tensor


def pack(
    num_earlier: Sequence[int], num_new: Sequence[int], first_positions: Sequence[int], device: torch.device
) -> Packing:
    """Sequences one after another: how many tokens each has already and how many follow, from which position on."""
    num_slots = [earlier + new for earlier, new in zip(num_earlier, num_new, strict=True)]
    token_ends = list(itertools.accumulate(num_new, initial=0))
    slot_ends = list(itertools.accumulate(num_slots, initial=0))
    positions = [torch.arange(first, first + new) for first, new in zip(first_positions, num_new, strict=True)]
    slots = [torch.arange(end - new, end) for end, new in zip(slot_ends[1:], num_new, strict=True)]
    return Packing(
        num_tokens=tuple(num_new),
        num_slots=tuple(num_slots),
        token_ends=torch.tensor(token_ends, dtype=torch.int32).to(device),
        slot_ends=torch.tensor(slot_ends, dtype=torch.int32).to(device),
        position_T=torch.cat(positions).to(device),
        slot_T=torch.cat(slots).to(device),
    )


def attend_packed(q_THD: torch.Tensor, kv: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Each token to its sequence's slots up to its own, [T, H, D]; `kv` is [2, S, K, D].

    A sequence's bits do not depend on the others. FlashAttention takes 16-bit numbers on a GPU; elsewhere each sequence
    is computed by itself.
    """
    groups = q_THD.shape[1] // kv.shape[2]
    keys, values = kv.repeat_interleave(groups, dim=2) if groups > 1 else kv
    if q_THD.device.type == "cpu" or q_THD.dtype == torch.float32:
        return _attend_one_by_one(q_THD, keys, values, packing)
    return varlen_attn(
        q_THD,
        keys,
        values,
        packing.token_ends,
        packing.slot_ends,
        max(packing.num_tokens),
        max(packing.num_slots),
        window_size=(-1, 0),  # causal, aligned at the last token
        **_NO_SPLITS,
    )


def _attend_one_by_one(q_THD: torch.Tensor, k_SHD: torch.Tensor, v_SHD: torch.Tensor, packing: Packing) -> torch.Tensor:
    parts = []
    tokens, slots = list(packing.num_tokens), list(packing.num_slots)
    for q, k, v in zip(q_THD.split(tokens), k_SHD.split(slots), v_SHD.split(slots), strict=True):
        is_seen = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        heads = (x.transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*heads, attn_mask=is_seen)[0].transpose(0, 1))
    return torch.cat(parts)
