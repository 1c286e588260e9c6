"""Which images share a batch, and the decode loops that run them.

On a CPU a batch is what was asked for, and its loop lasts as long. On a GPU, where bits depend on shapes, images whose
prompts need the same room share batches of one number of rows, and a loop is kept for each room with its graphs. The
memory of the cache is kept from batch to batch: fresh pages cost a CPU as much as a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

from actors.janus.batch_size import SHORTEST_ROOM, bytes_per_row, device_memory, images_on_cpu, prompt_room, rows_on_gpu
from actors.janus.decode_loop import Choose, CodeModel, DecodeLoop
from actors.janus.sampler import CodeSampler
from actors.llama.linear import MIN_ROWS
from actors.llama.model import num_slots

BATCHES_PER_CALL = 4  # of an engine's `render` on a GPU: all but the last one's pictures are decoded beside the next


class LoopPool:
    """The loops of one engine. `rows_of_room` gives the rows of every batch with a room; None where they are free."""

    def __init__(self, model: CodeModel, num_codes: int) -> None:
        self.model, self.num_codes = model, num_codes
        self.device = model.code_embedding_VC.device
        self.memory = device_memory(self.device)
        is_gpu = self.device.type == "cuda"
        self.rows_of_room: Callable[[int], int] | None = functools.cache(self._rows_on_gpu) if is_gpu else None
        self._loops: dict[int, DecodeLoop] = {}
        self._cache_memory = torch.empty(0)

    def images_per_call(self, rows_per_image: int) -> int:
        """Images that an engine does best to be asked for at a time."""
        if self.rows_of_room:
            return self.rows_of_room(SHORTEST_ROOM) // rows_per_image * BATCHES_PER_CALL
        return images_on_cpu(self._bytes_per_row(SHORTEST_ROOM), self.memory)

    def split(self, prompt_lengths: Sequence[int], num_rows: Sequence[int]) -> list[list[int]]:
        """Batches of images, given the longest prompt and the rows of each: the images' places, in order in a batch."""
        if not self.rows_of_room:
            return [list(range(len(num_rows)))] if num_rows else []
        places_of_room: dict[int, list[int]] = {}
        for place, length in enumerate(prompt_lengths):
            places_of_room.setdefault(prompt_room(length), []).append(place)
        batches: list[list[int]] = []
        for room, places in places_of_room.items():
            num_free = 0
            for place in places:
                if num_rows[place] > num_free:
                    batches.append([])
                    num_free = self.rows_of_room(room)
                batches[-1].append(place)
                num_free -= num_rows[place]
        return batches

    def loop_for(self, num_images: int, num_rows: int, longest_prompt: int, choose: Choose | None = None) -> DecodeLoop:
        """A loop that a batch fits into. `choose` takes the place of a sampler, in a loop that is not kept."""
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
        """In the memory that all loops use, one after the other; where it is too small, kept loops are forgotten."""
        size = self.model.llama.cache_size(num_rows, slots)
        num_needed = torch.Size(size).numel()
        if self._cache_memory.numel() < num_needed:
            self._loops.clear()
            self._cache_memory = torch.empty(0)  # freed before the larger one is made
            llama = self.model.llama
            self._cache_memory = torch.empty(num_needed, dtype=llama.cache_dtype, device=self.device)
        return self._cache_memory[:num_needed].view(size)

    def _rows_on_gpu(self, room: int) -> int:
        return rows_on_gpu(self._bytes_per_row(room), self.memory)

    def _bytes_per_row(self, room: int) -> int:
        llama = self.model.llama
        return bytes_per_row(llama.shape, room + self.num_codes, llama.cache_dtype.itemsize)
