"""Attention of a decode step: one query of every head to the keys and values in the row's own pages.

Shapes: R rows, H query heads, K key/value heads, D channels of a head, P pages of PAGE slots in a layer's cache,
M pages of a row at most, T positions of the rotary tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from actors.kernels.jit import Kernel, ceil_div

if TYPE_CHECKING:
    import triton.language as tl

PAGE = 64  # slots
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
FP8_MIN_SCALE = 1e-12  # of a head of zeros, which has no largest number to scale by

_BLOCK = 32  # slots read at a time
_NUM_STAGES = 3
# Bytes of a stored number -> warps. A thread takes 128 bytes of the keys at a time: enough work between two exchanges
# with the others. An H100 read 2.7 to 2.8 TB/s of 2.96 with prototypes that did, and 2.1 with half as much in fp8.
_NUM_WARPS = {1: 1, 2: 2, 4: 4}


def attend(
    qkv_RX: torch.Tensor,
    kv: torch.Tensor,
    scales: torch.Tensor | None,
    table_RM: torch.Tensor,
    position_R: torch.Tensor,
    cos_TD: torch.Tensor,
    sin_TD: torch.Tensor,
) -> torch.Tensor:
    """Rotate query and key, write key and value into the row's slot, attend to the row's slots up to it: [R, H * D].

    `qkv_RX` holds the heads of queries, keys and values, [R, (H + K + K) * D]; `kv` one layer's cache, [2, P, K, PAGE,
    D], in the dtype of `qkv_RX` or in fp8; `scales` float32 [2, P, K, PAGE] with fp8, else None. `table_RM` (int32)
    names each row's pages in order. `position_R` (int64) is the slot and rotary position of the row's token; a row at a
    negative position is empty: it reads and writes no page. The tables are float32, with the first half of the sines
    negated.

    A row's bits depend on the row alone: one program reads all keys of a row and head, in the order of their slots, and
    no slot of another row.
    """
    num_rows, num_heads, num_kv_heads, head_dim = _sizes(qkv_RX, kv)
    out_RX = torch.empty(num_rows, num_heads * head_dim, dtype=qkv_RX.dtype, device=qkv_RX.device)
    _attend[num_heads, num_rows](
        qkv_RX,
        kv,
        kv if scales is None else scales,
        table_RM,
        position_R,
        cos_TD,
        sin_TD,
        out_RX,
        kv.shape[1],
        table_RM.shape[1],
        H=num_heads,
        K=num_kv_heads,
        D=head_dim,
        PAGE=PAGE,
        BLOCK=_BLOCK,
        NUM_STAGES=_NUM_STAGES,
        SOFTMAX_SCALE=head_dim**-0.5,
        HAS_SCALES=scales is not None,
        FP8_MAX=FP8_MAX,
        FP8_MIN_SCALE=FP8_MIN_SCALE,
        num_warps=_NUM_WARPS[kv.element_size()],
    )
    return out_RX


def attend_reference(
    qkv_RX: torch.Tensor,
    kv: torch.Tensor,
    scales: torch.Tensor | None,
    table_RM: torch.Tensor,
    position_R: torch.Tensor,
    cos_TD: torch.Tensor,
    sin_TD: torch.Tensor,
) -> torch.Tensor:
    """`attend` in torch, one row at a time."""
    num_rows, num_heads, num_kv_heads, head_dim = _sizes(qkv_RX, kv)
    out_RHD = torch.empty(num_rows, num_heads, head_dim, dtype=qkv_RX.dtype, device=qkv_RX.device)
    for row, position in enumerate(position_R.tolist()):
        heads = qkv_RX[row].float().view(-1, head_dim)
        cos_D, sin_D = cos_TD[max(position, 0)], sin_TD[max(position, 0)]
        qk = heads[: num_heads + num_kv_heads]
        qk = qk * cos_D + qk.roll(head_dim // 2, -1) * sin_D
        new = torch.stack((qk[num_heads:], heads[num_heads + num_kv_heads :]))  # [2, K, D]
        new, new_scale = _to_cache(new, kv.dtype)
        num_slots = max(position, 0)
        pages = table_RM[row, : ceil_div(num_slots, PAGE)].long()
        old = kv[:, pages].float()
        if scales is not None:
            old = old * scales[:, pages, :, :, None]
        old = old.transpose(1, 2).flatten(2, 3)[:, :, :num_slots]  # [2, K, slots, D]
        keys, values = torch.cat((old, (new.float() * new_scale)[:, :, None]), dim=2)
        grouped = qk[:num_heads].view(num_kv_heads, -1, head_dim)
        probs = torch.softmax(grouped @ keys.transpose(1, 2) * head_dim**-0.5, dim=-1)
        out_RHD[row] = (probs @ values).view(num_heads, head_dim).to(out_RHD.dtype)
        if position >= 0:
            page, slot = table_RM[row, position // PAGE], position % PAGE
            kv[:, page, :, slot] = new
            if scales is not None:
                scales[:, page, :, slot] = new_scale[..., 0]
    return out_RHD.flatten(1)


def to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [..., D] in fp8 and the float32 scale of each head, [..., 1]: its largest number becomes the largest."""
    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=FP8_MIN_SCALE) / FP8_MAX
    return (x.float() / scale).to(FP8), scale


def _to_cache(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    if dtype == FP8:
        return to_fp8(x)
    return x.to(dtype), torch.ones_like(x[..., :1])


def _sizes(qkv_RX: torch.Tensor, kv: torch.Tensor) -> tuple[int, int, int, int]:
    """R, H, K and D."""
    _, _, num_kv_heads, _, head_dim = kv.shape
    return len(qkv_RX), qkv_RX.shape[1] // head_dim - 2 * num_kv_heads, num_kv_heads, head_dim


@Kernel
def _attend(
    qkv_ptr,
    kv_ptr,
    scale_ptr,
    table_ptr,
    position_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    num_pages,
    pages_of_row,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    SOFTMAX_SCALE: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    FP8_MAX: tl.constexpr,
    FP8_MIN_SCALE: tl.constexpr,
):
    """One program for each query head and row. Those of a group compute the same new key; the first writes it."""
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    kv_head = head // (H // K)
    position = tl.load(position_ptr + row).to(tl.int32)
    slot = tl.maximum(position, 0)
    d = tl.arange(0, D)
    half = (d + D // 2) % D  # the channel that each is rotated with

    cos = tl.load(cos_ptr + slot * D + d)
    sin = tl.load(sin_ptr + slot * D + d)
    heads_ptr = qkv_ptr + row * ((H + 2 * K) * D)
    q_ptr = heads_ptr + head * D
    k_ptr = heads_ptr + (H + kv_head) * D
    q = tl.load(q_ptr + d).to(tl.float32) * cos + tl.load(q_ptr + half).to(tl.float32) * sin
    q = q * SOFTMAX_SCALE
    k_new = tl.load(k_ptr + d).to(tl.float32) * cos + tl.load(k_ptr + half).to(tl.float32) * sin
    v_new = tl.load(k_ptr + K * D + d).to(tl.float32)

    table_ptr += row * pages_of_row
    value_slots = num_pages.to(tl.int64) * K * PAGE  # the values' slots follow the keys'
    new_page = tl.load(table_ptr + slot // PAGE, mask=position >= 0, other=0).to(tl.int64)
    new_at = (new_page * K + kv_head) * PAGE + slot % PAGE
    writes = (position >= 0) & (head % (H // K) == 0)
    if HAS_SCALES:
        k_scale = tl.maximum(tl.max(tl.abs(k_new), 0), FP8_MIN_SCALE) / FP8_MAX
        v_scale = tl.maximum(tl.max(tl.abs(v_new), 0), FP8_MIN_SCALE) / FP8_MAX
        tl.store(scale_ptr + new_at, k_scale, mask=writes)
        tl.store(scale_ptr + value_slots + new_at, v_scale, mask=writes)
        k_stored = (k_new / k_scale).to(kv_ptr.dtype.element_ty)
        v_stored = (v_new / v_scale).to(kv_ptr.dtype.element_ty)
        k_new = k_stored.to(tl.float32) * k_scale
        v_new = v_stored.to(tl.float32) * v_scale
    else:
        k_stored = k_new.to(kv_ptr.dtype.element_ty)
        v_stored = v_new.to(kv_ptr.dtype.element_ty)
        k_new = k_stored.to(tl.float32)
        v_new = v_stored.to(tl.float32)
    num_written = tl.where(writes, D, 0)
    tl.store(kv_ptr + new_at * D + d, k_stored, mask=d < num_written)
    tl.store(kv_ptr + (value_slots + new_at) * D + d, v_stored, mask=d < num_written)

    # Softmax as it goes: the row's own token first, then the slots before it, rescaled when a larger score comes.
    largest = tl.sum(q * k_new, 0)
    total = 1.0
    attended = v_new
    n = tl.arange(0, BLOCK)
    for start in tl.range(0, slot, BLOCK, num_stages=NUM_STAGES):
        page = tl.load(table_ptr + start // PAGE).to(tl.int64)
        at = (page * K + kv_head) * PAGE + start % PAGE + n
        is_filled = start + n < slot
        k = tl.load(kv_ptr + at[:, None] * D + d[None, :], mask=is_filled[:, None], other=0.0).to(tl.float32)
        v_at = value_slots + at
        v = tl.load(kv_ptr + v_at[:, None] * D + d[None, :], mask=is_filled[:, None], other=0.0).to(tl.float32)
        score = tl.sum(k * q[None, :], 1)
        if HAS_SCALES:
            score = score * tl.load(scale_ptr + at, mask=is_filled, other=0.0)
        score = tl.where(is_filled, score, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(score, 0))
        weight = tl.exp(score - new_largest)
        rescale = tl.exp(largest - new_largest)
        total = total * rescale + tl.sum(weight, 0)
        if HAS_SCALES:
            weight = weight * tl.load(scale_ptr + v_at, mask=is_filled, other=0.0)
        attended = attended * rescale + tl.sum(weight[:, None] * v, 0)
        largest = new_largest
    out = (attended / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * (H * D) + head * D + d, out)
