"""Sequences of several lengths as one matrix of tokens, and attention among the tokens of each.

Shapes: N sequences, T tokens of all, S slots of all, H query heads, K key/value heads, D channels of a head.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from actors.device import send


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """Where the tokens and the slots of each sequence are.

    A sequence's new tokens take the last of its slots; those before hold the keys and values of earlier tokens.
    `token_ends` and `slot_ends` are int32 [N + 1] and begin with 0; `position_T` and `slot_T` are int64. No
    sequence has more slots than `most_slots`; there may be unused slots after the last one.
    """

    num_tokens: tuple[int, ...]
    num_slots: tuple[int, ...]
    most_slots: int
    token_ends: torch.Tensor
    slot_ends: torch.Tensor
    position_T: torch.Tensor
    slot_T: torch.Tensor

    def written_to(self, other: Packing) -> Packing:
        """This packing in the tensors of another one of as many sequences and tokens, which a CUDA graph reads."""
        names = ("token_ends", "slot_ends", "position_T", "slot_T")
        tensors = {name: getattr(other, name).copy_(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **tensors)


def pack(
    num_earlier: Sequence[int],
    num_new: Sequence[int],
    first_positions: Sequence[int],
    device: torch.device,
    *,
    most_slots: int | None = None,
) -> Packing:
    """Sequences one after another: how many tokens each has already and how many follow, from which position on.

    `most_slots` is a bound on a sequence's slots (default: the largest number), for a CUDA graph of several packings.
    """
    num_slots = [earlier + new for earlier, new in zip(num_earlier, num_new, strict=True)]
    token_ends = list(itertools.accumulate(num_new, initial=0))
    slot_ends = list(itertools.accumulate(num_slots, initial=0))
    positions = [torch.arange(first, first + new) for first, new in zip(first_positions, num_new, strict=True)]
    slots = [torch.arange(end - new, end) for end, new in zip(slot_ends[1:], num_new, strict=True)]
    return Packing(
        num_tokens=tuple(num_new),
        num_slots=tuple(num_slots),
        most_slots=most_slots or max(num_slots),
        token_ends=send(torch.tensor(token_ends, dtype=torch.int32), device),
        slot_ends=send(torch.tensor(slot_ends, dtype=torch.int32), device),
        position_T=send(torch.cat(positions), device),
        slot_T=send(torch.cat(slots), device),
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
    return _varlen_attention()(
        q_THD,
        keys,
        values,
        packing.token_ends,
        packing.slot_ends,
        max(packing.num_tokens),
        packing.most_slots,
        window_size=(-1, 0),  # causal, aligned at the last token
    )


@functools.cache
def _varlen_attention() -> Callable[..., torch.Tensor]:
    """torch's attention of packed sequences, which takes a second to import."""
    from torch.nn.attention.varlen import varlen_attn

    # Without splits a sequence's bits do not depend on the longest one. Torch 2.11 has neither.
    has_splits = "num_splits" in inspect.signature(varlen_attn).parameters
    return functools.partial(varlen_attn, num_splits=1) if has_splits else varlen_attn


def _attend_one_by_one(q_THD: torch.Tensor, k_SHD: torch.Tensor, v_SHD: torch.Tensor, packing: Packing) -> torch.Tensor:
    parts = []
    keys, values = (x[: sum(packing.num_slots)].split(packing.num_slots) for x in (k_SHD, v_SHD))
    for q, k, v in zip(q_THD.split(packing.num_tokens), keys, values, strict=True):
        is_seen = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        heads = (x.transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*heads, attn_mask=is_seen)[0].transpose(0, 1))
    return torch.cat(parts)
