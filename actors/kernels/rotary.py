"""Rotary embedding of many tokens at once, https://arxiv.org/abs/2104.09864, with keys and values put in their slots.

Shapes: T tokens, H query heads, K key/value heads, D channels of a head, S slots, P positions of the tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from actors.kernels.jit import Kernel, power_of_two

if TYPE_CHECKING:
    import triton.language as tl


def rotate_and_store(
    qkv_TX: torch.Tensor,
    kv: torch.Tensor,
    position_T: torch.Tensor,
    slot_T: torch.Tensor,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
) -> torch.Tensor:
    """Rotated queries [T, H, D]; rotated keys and the values go to `slot_T` (int64) of `kv` [2, S, K, D].

    `qkv_TX` holds the heads of queries, keys and values, [T, (H + K + K) * D]; a token's rotary position is in
    `position_T` (int64). The tables are float32, with the first half of the sines negated. Each number depends on two
    others of its own token and on no neighbour.
    """
    _, num_slots, num_kv_heads, head_dim = kv.shape
    num_tokens, num_heads = len(qkv_TX), qkv_TX.shape[1] // head_dim - 2 * num_kv_heads
    q_THD = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv_TX.dtype, device=qkv_TX.device)
    _rotate_and_store[(num_tokens,)](
        qkv_TX,
        q_THD,
        kv,
        position_T,
        slot_T,
        cos_PD,
        sin_PD,
        num_slots,
        H=num_heads,
        K=num_kv_heads,
        D=head_dim,
        H_BLOCK=power_of_two(num_heads),
        K_BLOCK=power_of_two(num_kv_heads),
        num_warps=8,
    )
    return q_THD


def rotate_and_store_reference(
    qkv_TX: torch.Tensor,
    kv: torch.Tensor,
    position_T: torch.Tensor,
    slot_T: torch.Tensor,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
) -> torch.Tensor:
    """`rotate_and_store` in torch."""
    num_kv_heads, head_dim = kv.shape[2:]
    heads = qkv_TX.float().unflatten(1, (-1, head_dim))
    num_heads = heads.shape[1] - 2 * num_kv_heads
    qk, values = heads[:, : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
    qk = qk * cos_PD[position_T, None] + qk.roll(head_dim // 2, -1) * sin_PD[position_T, None]
    kv[0][slot_T], kv[1][slot_T] = qk[:, num_heads:].to(kv.dtype), values.to(kv.dtype)
    return qk[:, :num_heads].to(qkv_TX.dtype)


@Kernel
def _rotate_and_store(
    qkv_ptr,
    q_ptr,
    kv_ptr,
    position_ptr,
    slot_ptr,
    cos_ptr,
    sin_ptr,
    num_slots,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    H_BLOCK: tl.constexpr,
    K_BLOCK: tl.constexpr,
):
    """One program for each token."""
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(position_ptr + token)
    slot = tl.load(slot_ptr + token)
    d = tl.arange(0, D)[None, :]
    half = (d + D // 2) % D  # the channel that each is rotated with
    cos = tl.load(cos_ptr + position * D + d)
    sin = tl.load(sin_ptr + position * D + d)

    h = tl.arange(0, H_BLOCK)[:, None]
    row_ptr = qkv_ptr + token * ((H + 2 * K) * D)
    q = tl.load(row_ptr + h * D + d, mask=h < H, other=0.0).to(tl.float32) * cos
    q += tl.load(row_ptr + h * D + half, mask=h < H, other=0.0).to(tl.float32) * sin
    tl.store(q_ptr + token * (H * D) + h * D + d, q.to(q_ptr.dtype.element_ty), mask=h < H)

    h = tl.arange(0, K_BLOCK)[:, None]
    k = tl.load(row_ptr + (H + h) * D + d, mask=h < K, other=0.0).to(tl.float32) * cos
    k += tl.load(row_ptr + (H + h) * D + half, mask=h < K, other=0.0).to(tl.float32) * sin
    v = tl.load(row_ptr + (H + K + h) * D + d, mask=h < K, other=0.0)
    k_ptr = kv_ptr + slot * (K * D) + h * D + d
    tl.store(k_ptr, k.to(kv_ptr.dtype.element_ty), mask=h < K)
    tl.store(k_ptr + num_slots.to(tl.int64) * (K * D), v.to(kv_ptr.dtype.element_ty), mask=h < K)
