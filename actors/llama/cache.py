"""Where the keys and values of a batch's rows are: a block of memory for each row on a CPU, pages on a GPU.

Shapes: R rows, L layers, K key/value heads, T tokens or slots, D channels of a head, C hidden channels, P pages,
M pages of a row at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.device import send
from actors.errors import InputError
from actors.kernels.attention import FP8, PAGE, to_fp8
from actors.llama.attention import BagAttention

FP8_CAPABILITY = (8, 9)  # Ada and Hopper are the first whose processors convert fp8
EMPTY_ROW = -(2**31)  # the position of a row without a prompt; it stays negative however many tokens follow


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptState:
    """A prefilled prompt: its last hidden state [C] and its keys and values [L, 2, K, T, D]."""

    hidden_C: torch.Tensor
    kv: torch.Tensor

    @property
    def num_tokens(self) -> int:
        return self.kv.shape[3]


class RowCache:
    """One block of slots for each row, [L, 2, R, K, T, D], laid out as BagAttention reads it. For a CPU."""

    def __init__(self, kv: torch.Tensor) -> None:
        self.kv = kv
        self.num_rows = kv.shape[2]

    def load(self, states: Sequence[PromptState]) -> torch.Tensor:
        """Put a prompt into each row; the rows without one repeat the first. Returns the rows' next positions [R]."""
        states = [*states, *states[:1] * (self.num_rows - len(states))]
        self.kv.zero_()  # attention masks what an earlier batch left here, but a NaN would pass the mask
        for row, state in enumerate(states):
            BagAttention.put_prompt(self.kv, row, state.kv)
        return torch.tensor([state.num_tokens for state in states])


class PagePool:
    """Pages of PAGE slots that the rows of a batch share, [L, 2, P, K, PAGE, D]. For a GPU.

    With fp8, `scales` holds a float32 factor for each slot and head, [L, 2, P, K, PAGE]; otherwise it is None.
    """

    def __init__(self, kv_size: tuple[int, int, int, int], *, dtype: torch.dtype, device: torch.device) -> None:
        """`kv_size` is (L, P, K, D)."""
        num_layers, num_pages, num_kv_heads, head_dim = kv_size
        size = (num_layers, 2, num_pages, num_kv_heads, PAGE)
        self.num_pages = num_pages
        self.kv = torch.empty(*size, head_dim, dtype=dtype, device=device)
        self.scales = torch.empty(size, device=device) if dtype == FP8 else None

    def put(self, first_page: int, kv: torch.Tensor) -> None:
        """Write keys and values [L, 2, K, T, D] to the slots of consecutive pages."""
        if self.scales is None:
            _fill_pages(self.kv, first_page, kv)
        else:
            quantized, scales = to_fp8(kv)
            _fill_pages(self.kv, first_page, quantized)
            _fill_pages(self.scales, first_page, scales[..., 0])


class PagedCache:
    """The pages of up to `num_rows` rows of `num_new` tokens beyond their prompts.

    `table_RM` (int32) names the pages of each row in the order of its slots; it stays where it is, for CUDA graphs.
    """

    def __init__(self, pool: PagePool, *, num_rows: int, num_new: int, context_length: int) -> None:
        self.pool, self.num_rows, self.num_new = pool, num_rows, num_new
        self.table_RM = torch.zeros(num_rows, pages_of(context_length), dtype=torch.int32, device=pool.kv.device)

    def load(self, states: Sequence[PromptState]) -> torch.Tensor:
        """Give the first rows their pages and prompts. Returns the rows' next positions [R]; the others are empty.

        Raises ValueError if the pool has too few pages.
        """
        table_RM = torch.zeros(self.table_RM.shape, dtype=torch.int32)
        num_used = 0
        for row, state in enumerate(states):
            pages = range(num_used, num_used := num_used + pages_of(state.num_tokens + self.num_new))
            if num_used > self.pool.num_pages:
                raise ValueError(f"the rows of a batch need more than the {self.pool.num_pages} pages of the cache")
            table_RM[row, : len(pages)] = torch.tensor(pages)
            self.pool.put(pages.start, state.kv)
        self.table_RM.copy_(send(table_RM, self.table_RM.device))
        lengths = [state.num_tokens for state in states]
        return torch.tensor([*lengths, *[EMPTY_ROW] * (self.num_rows - len(states))])


def _fill_pages(pages: torch.Tensor, first: int, values: torch.Tensor) -> None:
    """Write [L, 2, K, T, ...] to pages [L, 2, P, K, PAGE, ...]: the full ones at once, then the rest."""
    num_full, num_left = divmod(values.shape[3], PAGE)
    full, left = values.split([num_full * PAGE, num_left], dim=3)
    if num_full:
        pages[:, :, first : first + num_full] = full.unflatten(3, (num_full, PAGE)).transpose(2, 3)
    if num_left:
        pages[:, :, first + num_full, :, :num_left] = left


def cache_dtype_for(kv_cache: str | None, device: torch.device) -> torch.dtype | None:
    """The dtype of a recipe's `kv_cache`; None is the model's. Raises InputError where a device has none of it."""
    if kv_cache is None:
        return None
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if capability < FP8_CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise InputError(
            f"model.kv_cache: fp8 needs a GPU of compute capability 8.9 or newer; {name} has none. Leave it out here"
        )
    return FP8


def pages_of(num_tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-num_tokens // PAGE)
