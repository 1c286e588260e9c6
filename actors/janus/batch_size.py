"""How many images and rows share a Janus batch: what memory holds, up to where more no longer pays.

On a GPU a row's bits depend on the number of rows and on how far the cache is read, so both are functions of the
row, the model and the kind of device alone: the room for a row's prompt, and the rows of every batch with that room.
On a CPU they do not, and a batch has the rows its images need.
"""

from __future__ import annotations

import os

import torch

from actors.checkpoint.shape import LlamaShape
from actors.llama.model import num_slots

GPU_ROWS = (256, 128, 64, 32, 16, 8, 4, 2)  # a row more costs its keys and values, a batch more all the weights
CPU_IMAGES = (16, 8, 4, 2, 1)  # of a batch: products reach a large one's speed at 32 rows, not yet at 16
MEMORY_FOR_BATCH = {"cuda": 0.6, "cpu": 0.125}  # of the memory the weights leave; of all the machine's
SHORTEST_ROOM = 128  # prompt tokens: 98 in 100 prompts, as people write them, fit


def prompt_room(num_tokens: int) -> int:
    """The cache slots set aside for a prompt and its negative or unconditional one: 128, 256, 512 and so on."""
    room = SHORTEST_ROOM
    while room < num_tokens:
        room *= 2
    return room


def bytes_per_row(shape: LlamaShape, num_tokens: int, itemsize: int) -> int:
    """Of one row's keys and values."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize * num_slots(num_tokens)


def images_on_cpu(row_bytes: int, memory: int) -> int:
    """Images of a batch on a CPU of `memory` bytes; every image may have two rows."""
    return next((n for n in CPU_IMAGES if 2 * n * row_bytes <= memory * MEMORY_FOR_BATCH["cpu"]), CPU_IMAGES[-1])


def rows_on_gpu(row_bytes: int, memory: int) -> int:
    """Rows of every batch on a GPU with `memory` bytes beside the weights."""
    return next((n for n in GPU_ROWS if n * row_bytes <= memory * MEMORY_FOR_BATCH["cuda"]), GPU_ROWS[-1])


def device_memory(device: torch.device) -> int:
    """Bytes: what the weights on a GPU leave of all it has, or the machine's memory.

    Not what happens to be free: the number of rows must not depend on who else is there.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory - torch.cuda.memory_allocated(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
