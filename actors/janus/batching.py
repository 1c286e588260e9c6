"""Which images share a Janus batch, and the decode loops that run the batches.

A row's bits do not depend on its batch, on a CPU or on a GPU. On a CPU a batch is what `render` is asked for, and the
memory of its cache is kept for the next one: fresh memory costs as much as a step. On a GPU the rows of a batch share
pages of a cache that takes most of the memory, and loops are kept with their CUDA graphs, one for each size.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence

import torch

from actors.errors import DeviceFullError
from actors.janus.decode_loop import Choose, DecodeLoop
from actors.janus.network import CodeModel
from actors.janus.sampler import CodeSampler
from actors.kernels.attention import FP8, PAGE
from actors.kernels.cuda_graph import GraphPool
from actors.llama.cache import PagedCache, PagePool, PromptState, RowCache, pages_of
from actors.llama.config import LlamaShape
from actors.llama.linear import MIN_ROWS
from actors.llama.model import num_slots

TYPICAL_PROMPT = 128  # tokens: longer than 98 in 100 prompts that people write

CPU_IMAGES = (16, 8, 4, 2, 1)  # per batch: matrix products reach full speed at 32 rows, not yet at 16
CPU_SHARE = 0.125  # of the machine's memory, for keys and values

# Unconditional prompts that are kept from batch to batch: their tokens on a CPU, and as a share of the cache on a GPU.
CPU_KEPT_TOKENS = 4096
GPU_KEPT_SHARE = 1 / 32

GPU_ROWS = 384  # at most: three tiles of a product; more would delay the first images for little
FP8_ROWS = 512  # the same with keys and values of half the size
GPU_SHARE = 0.75  # of the memory that is free next to the weights; the rest is for prompts and images
SMALLEST_LOOP = 16  # rows; each size has its own CUDA graphs


# (images, codes, device) -> what chooses the codes of a loop
NewSampler = Callable[[int, int, torch.device], Choose]


class CpuLoops:
    """Decode loops on a CPU: one for each batch, as large as it is."""

    def __init__(self, model: CodeModel, num_codes: int, new_sampler: NewSampler = CodeSampler) -> None:
        self.model, self.num_codes, self._new_sampler = model, num_codes, new_sampler
        self.longest_prompt = model.llama.shape.context_length - num_codes
        self.num_kept_tokens = CPU_KEPT_TOKENS
        self._memory = torch.empty(0)

    def for_text(self, model: CodeModel, num_tokens: int, new_sampler: NewSampler) -> CpuLoops:
        """Loops for the texts before the images."""
        return CpuLoops(model, num_tokens, new_sampler)

    def images_per_batch(self, rows_per_image: int) -> int:
        """The number of images per batch at which the engine is fastest."""
        row_bytes = bytes_per_row(self.model.llama.shape, num_slots(TYPICAL_PROMPT + self.num_codes), itemsize=4)
        return images_on_cpu(row_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def split(self, prompt_lengths: Sequence[Sequence[int]]) -> list[list[int]]:
        """Group images into batches, given the prompt length of each of an image's rows: the indices of each batch."""
        return [list(range(len(prompt_lengths)))] if prompt_lengths else []

    def loop_for(self, num_images: int, states: Sequence[PromptState], choose: Choose | None = None) -> DecodeLoop:
        """A loop with room for this batch. `choose` replaces the sampler."""
        num_images, longest = max(num_images, MIN_ROWS), max(state.num_tokens for state in states)
        choose = choose or self._new_sampler(num_images, self.num_codes, torch.device("cpu"))
        size = torch.Size(self.model.llama.cache_size(max(len(states), MIN_ROWS), num_slots(longest + self.num_codes)))
        if self._memory.numel() < size.numel():
            self._memory = torch.empty(0)  # freed before the larger one is allocated
            self._memory = torch.empty(size.numel())
        cache = RowCache(self._memory[: size.numel()].view(size))
        return DecodeLoop(self.model, choose, cache, num_images=num_images)


class GpuLoops:
    """Decode loops on a GPU with `memory` bytes for keys and values. Raises DeviceFullError if one image needs more."""

    def __init__(self, model: CodeModel, num_codes: int, memory: int) -> None:
        llama, self._new_sampler = model.llama, CodeSampler
        self.model, self.num_codes, self.device = model, num_codes, llama.device
        page_bytes = bytes_per_page(llama.shape, llama.cache_dtype)
        num_pages, typical = memory // page_bytes, pages_of(TYPICAL_PROMPT + num_codes)
        if num_pages < 2 * typical:
            raise DeviceFullError(
                f"The keys and values of one image need {2 * typical * page_bytes / 1e9:.1f} GB of GPU memory; "
                f"{memory / 1e9:.1f} GB are free for them next to the weights. Free memory on it or use a larger GPU"
            )
        self.max_rows = min(num_pages // typical, FP8_ROWS if llama.cache_dtype == FP8 else GPU_ROWS)
        longest = pages_of(llama.shape.context_length)
        num_pages = min(num_pages, max(self.max_rows * typical, 2 * longest))
        size = (llama.shape.num_layers, num_pages, llama.shape.num_kv_heads, llama.shape.head_dim)
        self.pool = PagePool(size, dtype=llama.cache_dtype, device=self.device)
        self.longest_prompt = min(llama.shape.context_length, num_pages // 2 * PAGE) - num_codes
        self.num_kept_tokens = int(num_pages * PAGE * GPU_KEPT_SHARE)
        self._graphs = GraphPool() if self.device.type == "cuda" else None
        self._loops: dict[tuple[int, int], DecodeLoop] = {}

    def for_text(self, model: CodeModel, num_tokens: int, new_sampler: NewSampler) -> GpuLoops:
        """Loops for the texts before the images, on the same pages: a batch's texts end before its images begin."""
        loops = copy.copy(self)
        loops.model, loops.num_codes, loops._new_sampler, loops._loops = model, num_tokens, new_sampler, {}
        loops.longest_prompt = self.longest_prompt + self.num_codes - num_tokens
        return loops

    def images_per_batch(self, rows_per_image: int) -> int:
        """The number of images per batch at which the engine is fastest."""
        return self.max_rows // rows_per_image

    def split(self, prompt_lengths: Sequence[Sequence[int]]) -> list[list[int]]:
        """Group images into batches, given the prompt length of each of an image's rows: the indices of each batch."""
        batches: list[list[int]] = []
        rows_left = pages_left = 0
        for image, lengths in enumerate(prompt_lengths):
            num_pages = sum(pages_of(length + self.num_codes) for length in lengths)
            if len(lengths) > rows_left or num_pages > pages_left:
                batches.append([])
                rows_left, pages_left = self.max_rows, self.pool.num_pages
            batches[-1].append(image)
            rows_left, pages_left = rows_left - len(lengths), pages_left - num_pages
        return batches

    def loop_for(self, num_images: int, states: Sequence[PromptState], choose: Choose | None = None) -> DecodeLoop:
        """A loop with room for this batch. `choose` replaces the sampler, in a loop that is not kept."""
        most_guided = self.max_rows // 2
        most_images = most_guided if num_images <= most_guided else self.max_rows
        size = (_loop_size(num_images, most_images), _loop_size(len(states), self.max_rows))
        if choose is None and size in self._loops:
            return self._loops[size]
        loop = self._new_loop(*size, choose)
        if choose is None:
            self._loops[size] = loop
        return loop

    def _new_loop(self, num_images: int, num_rows: int, choose: Choose | None) -> DecodeLoop:
        context_length = self.model.llama.shape.context_length
        cache = PagedCache(self.pool, num_rows=num_rows, num_new=self.num_codes, context_length=context_length)
        graphs = self._graphs if choose is None else None
        choose = choose or self._new_sampler(num_images, self.num_codes, self.device)
        return DecodeLoop(self.model, choose, cache, num_images=num_images, graphs=graphs)


def _loop_size(num: int, largest: int) -> int:
    """The next power of two, so that there are few sizes; at most `largest`."""
    return min(max(SMALLEST_LOOP, 1 << (num - 1).bit_length()), largest)


def bytes_per_row(shape: LlamaShape, num_slots: int, itemsize: int) -> int:
    """Bytes of the keys and values in this many slots."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize * num_slots


def bytes_per_page(shape: LlamaShape, cache_dtype: torch.dtype) -> int:
    """Bytes of a page of a GPU's cache; in fp8 each slot of a head has a float32 factor for its key and its value."""
    scales = 2 * shape.num_layers * shape.num_kv_heads * PAGE * 4 if cache_dtype == FP8 else 0
    return bytes_per_row(shape, PAGE, cache_dtype.itemsize) + scales


def images_on_cpu(row_bytes: int, memory: int) -> int:
    """Images per batch on a CPU with `memory` bytes; every image may have two rows."""
    return next((n for n in CPU_IMAGES if 2 * n * row_bytes <= memory * CPU_SHARE), CPU_IMAGES[-1])


def free_gpu_memory() -> int:
    """Bytes for keys and values on the current GPU, once the weights are there."""
    torch.cuda.empty_cache()  # memory that loading has freed counts as free
    return int(torch.cuda.mem_get_info()[0] * GPU_SHARE)
