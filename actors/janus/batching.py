"""Which images share a Janus batch, how many rows it has, and the decode loops that run the batches.

On a GPU a row's bits depend on the number of rows and on how far the cache is read. Both are therefore functions of
the row, the model and the kind of device alone: images whose prompts need the same room share batches of one fixed
number of rows, and each room keeps its loop with its CUDA graphs. On a CPU the bits depend on neither, so a batch has
the rows that its images need, and its loop is dropped afterwards.

The memory of the cache is kept from batch to batch: on a CPU, fresh pages cost as much as a step.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import torch

from actors.janus.decode_loop import Choose, DecodeLoop
from actors.janus.network import CodeModel
from actors.janus.sampler import CodeSampler
from actors.llama.config import LlamaShape
from actors.llama.linear import MIN_ROWS
from actors.llama.model import num_slots

BATCHES_PER_CALL = 4  # on a GPU, per call of `render`: every batch but the last is decoded while the next one runs
GPU_ROWS = (256, 128, 64, 32, 16, 8, 4, 2)  # one more row costs its keys and values, one more batch all the weights
CPU_IMAGES = (16, 8, 4, 2, 1)  # per batch: matrix products reach full speed at 32 rows, not yet at 16
MEMORY_FOR_BATCH = {"cuda": 0.6, "cpu": 0.125}  # share of the memory next to the weights; of the machine's memory
SHORTEST_ROOM = 128  # prompt tokens: fits 98 in 100 prompts that people write


class LoopPool:
    """The decode loops of one engine. `rows_of_room` maps a room to the rows of its batches; None if rows are free."""

    def __init__(self, model: CodeModel, num_codes: int) -> None:
        self.model, self.num_codes = model, num_codes
        self.device = model.code_embedding_VC.device
        self.memory = device_memory(self.device)
        is_gpu = self.device.type == "cuda"
        self.rows_of_room: Callable[[int], int] | None = functools.cache(self._rows_on_gpu) if is_gpu else None
        self._loops: dict[int, DecodeLoop] = {}
        self._cache_memory = torch.empty(0)

    def images_per_call(self, rows_per_image: int) -> int:
        """The number of images per `render` call at which the engine is fastest."""
        if self.rows_of_room:
            return self.rows_of_room(SHORTEST_ROOM) // rows_per_image * BATCHES_PER_CALL
        return images_on_cpu(self._bytes_per_row(SHORTEST_ROOM), self.memory)

    def split(self, prompt_lengths: Sequence[int], num_rows: Sequence[int]) -> list[list[int]]:
        """Group images into batches, given the longest prompt and the rows of each image.

        Returns the indices of each batch's images, in order.
        """
        if not self.rows_of_room:
            return [list(range(len(num_rows)))] if num_rows else []
        images_of_room: dict[int, list[int]] = {}
        for image, length in enumerate(prompt_lengths):
            images_of_room.setdefault(prompt_room(length), []).append(image)
        batches: list[list[int]] = []
        for room, images in images_of_room.items():
            num_free = 0
            for image in images:
                if num_rows[image] > num_free:
                    batches.append([])
                    num_free = self.rows_of_room(room)
                batches[-1].append(image)
                num_free -= num_rows[image]
        return batches

    def loop_for(self, num_images: int, num_rows: int, longest_prompt: int, choose: Choose | None = None) -> DecodeLoop:
        """A loop with room for this batch. `choose` replaces the sampler, in a loop that is not kept."""
        if not self.rows_of_room:
            num_images = max(num_images, MIN_ROWS)
            choose = choose or CodeSampler(num_images, self.num_codes, self.device)
            cache = self._shared_cache(max(num_rows, MIN_ROWS), num_slots(longest_prompt + self.num_codes))
            return DecodeLoop(self.model, choose, cache, num_images=num_images, prompt_room=longest_prompt)
        room = prompt_room(longest_prompt)
        if choose is None and room in self._loops:
            return self._loops[room]
        num_rows = self.rows_of_room(room)
        cache = self._shared_cache(num_rows, num_slots(room + self.num_codes))
        sampler = choose or CodeSampler(num_rows, self.num_codes, self.device)
        loop = DecodeLoop(self.model, sampler, cache, num_images=num_rows, prompt_room=room)
        if choose is None:
            loop.use_graphs = self.device.type == "cuda"
            self._loops[room] = loop
        return loop

    def _shared_cache(self, num_rows: int, slots: int) -> torch.Tensor:
        """A cache in the memory that all loops share. Growing it drops the loops that were kept."""
        size = self.model.llama.cache_size(num_rows, slots)
        num_needed = torch.Size(size).numel()
        if self._cache_memory.numel() < num_needed:
            self._loops.clear()
            self._cache_memory = torch.empty(0)  # freed before the larger one is allocated
            llama = self.model.llama
            self._cache_memory = torch.empty(num_needed, dtype=llama.cache_dtype, device=self.device)
        return self._cache_memory[:num_needed].view(size)

    def _rows_on_gpu(self, room: int) -> int:
        return rows_on_gpu(self._bytes_per_row(room), self.memory)

    def _bytes_per_row(self, room: int) -> int:
        llama = self.model.llama
        return bytes_per_row(llama.shape, room + self.num_codes, llama.cache_dtype.itemsize)


def prompt_room(num_tokens: int) -> int:
    """The cache slots reserved for a prompt and its negative or unconditional one: 128, 256, 512 and so on."""
    room = SHORTEST_ROOM
    while room < num_tokens:
        room *= 2
    return room


def bytes_per_row(shape: LlamaShape, num_tokens: int, itemsize: int) -> int:
    """Bytes of one row's keys and values."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize * num_slots(num_tokens)


def images_on_cpu(row_bytes: int, memory: int) -> int:
    """Images per batch on a CPU with `memory` bytes; every image may have two rows."""
    return next((n for n in CPU_IMAGES if 2 * n * row_bytes <= memory * MEMORY_FOR_BATCH["cpu"]), CPU_IMAGES[-1])


def rows_on_gpu(row_bytes: int, memory: int) -> int:
    """Rows of every batch on a GPU with `memory` bytes next to the weights."""
    return next((n for n in GPU_ROWS if n * row_bytes <= memory * MEMORY_FOR_BATCH["cuda"]), GPU_ROWS[-1])


def device_memory(device: torch.device) -> int:
    """Bytes: a GPU's memory less the weights, or all of the machine's memory.

    Deliberately not the memory that happens to be free: the number of rows must not depend on other processes.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory - torch.cuda.memory_allocated(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
