"""Attention on a CPU: of a prompt to itself, and of one query of each row to the row's keys and values in a cache.

A cache is a tensor [L, 2, R, K, T, D] of every layer's keys and values.

Shapes: R rows, K key/value heads, G query heads for each of those, D channels of a head, T cache slots, L layers.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

BLOCK = 32  # slots whose keys are stored together; the cache is read in whole blocks


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax attention, [..., queries, D]: two products with a float32 softmax between them.

    No fused kernel: those split the keys by the number of rows and slots, which changes bits.
    """
    scores = torch.matmul(q, keys.transpose(-1, -2)).float()
    return torch.matmul(_softmax(scores, mask, keys.shape[-1]).to(values.dtype), values)


class BagAttention:
    """By weighted sums of a table's rows, `embedding_bag`, which reads up to 3 times as fast as matrix products.

    One object serves one token in all layers. The cache is the table. A value is a row of it: the D numbers of a slot,
    weighted by probabilities. Keys are stored in blocks, [R, K, T / 32, D, 32]: the scores of a block's slots are its D
    rows weighted by the query. Each sum is computed by itself and in order, so a row's bits depend neither on other
    rows nor on the threads. Slots beyond the longest row's position are not read, those beyond a row's own are masked.
    """

    def __init__(self, position_R: torch.Tensor, cache_size: torch.Size) -> None:
        _, _, num_rows, num_heads, num_slots, width = cache_size
        self.row_R, self.position_R = torch.arange(num_rows), position_R
        self.num_blocks = (int(position_R.max()) + BLOCK) // BLOCK
        head_RK1 = torch.arange(num_rows * num_heads).view(num_rows, num_heads, 1)
        block_RK1 = head_RK1 * (num_slots // BLOCK) + (position_R // BLOCK)[:, None, None]
        place_RKD = (block_RK1 * width + torch.arange(width)) * BLOCK + (position_R % BLOCK)[:, None, None]
        self.key_place = place_RKD.view(-1)
        self.key_rows = _first_rows(num_rows * num_heads, num_slots // BLOCK * width, self.num_blocks * width)
        self.value_rows = _first_rows(num_rows * num_heads, num_slots, self.num_blocks * BLOCK)
        self.mask_R1T = _mask(position_R, self.num_blocks * BLOCK)[:, None]

    @staticmethod
    def put_prompt(cache: torch.Tensor, row: int, kv: torch.Tensor) -> None:
        """Put a prompt's keys and values [L, 2, K, tokens, D] into the first slots of a row, which must be zero."""
        keys = F.pad(kv[:, 0], (0, 0, 0, -kv.shape[3] % BLOCK))
        in_blocks = keys.unflatten(2, (-1, BLOCK)).transpose(-1, -2)
        cache[:, 0, row, :, : keys.shape[2]] = in_blocks.reshape(keys.shape)
        cache[:, 1, row, :, : kv.shape[3]] = kv[:, 1]

    def put(self, kv: torch.Tensor, k_RKD: torch.Tensor, v_RKD: torch.Tensor) -> None:
        """Put one key and value of every row into a layer's part of the cache, [2, R, K, T, D]."""
        kv[0].view(-1).scatter_(0, self.key_place, k_RKD.reshape(-1))
        kv[1][self.row_R, :, self.position_R] = v_RKD

    def attend(self, q_RKD: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """Attend to that part with one query of every head: [R, K, D]."""
        num_rows, num_heads, width = q_RKD.shape
        query_of_blocks = q_RKD[:, :, None].expand(-1, -1, self.num_blocks, -1).reshape(-1)
        scores = _sum_bags(self.key_rows, width, kv[0].view(-1, BLOCK), query_of_blocks)
        probs = _softmax(scores.view(num_rows, num_heads, -1), self.mask_R1T, width)
        attended = _sum_bags(self.value_rows, probs.shape[-1], kv[1].view(-1, width), probs.view(-1))
        return attended.view(num_rows, num_heads, width)


def _softmax(scores: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.softmax(torch.add(mask, scores, alpha=width**-0.5), dim=-1)


def _mask(position_R: torch.Tensor, num_attended: int) -> torch.Tensor:
    """-inf, [R, T], at slots beyond a row's own position, else 0."""
    is_empty_RT = torch.arange(num_attended) > position_R[:, None]
    return torch.zeros(is_empty_RT.shape).masked_fill_(is_empty_RT, -torch.inf)


def _first_rows(num_lists: int, list_size: int, num_taken: int) -> torch.Tensor:
    """Indices of the first `num_taken` rows of every list, in a table of consecutive lists."""
    list_N1 = torch.arange(num_lists, dtype=torch.int32)[:, None] * list_size
    return (list_N1 + torch.arange(num_taken, dtype=torch.int32)).view(-1)


def _sum_bags(rows: torch.Tensor, bag_size: int, table: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums of `bag_size` rows of a table each, [bags, channels]."""
    starts = torch.arange(0, len(rows), bag_size, dtype=rows.dtype)
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)
