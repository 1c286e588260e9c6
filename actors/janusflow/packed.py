"""The network's calls on a GPU: the tokens of all rows as one matrix, attention in one call per layer, a CUDA graph.

A row's prompt is computed once. The keys and values of a call's prompts are in one buffer, each row's own after its
prompt, and a step writes only the latter. Buffers keep their addresses from batch to batch, and so do the inputs and
the velocity: the whole call is captured once for each buffer and replayed at every step.

Shapes: B rows, Q tokens of a row in one step, D hidden channels, L layers, K key/value heads, P tokens of a prompt, S
slots, E channels of a head, C x H x W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from actors.kernels.cuda_graph import GraphPool
from actors.kernels.jit import ceil_div
from actors.kernels.norm import add_norm
from actors.llama.packed import PackedLlama
from actors.llama.packing import Packing, pack

KEPT_CALLS = 2  # buffers: 16 guided images make two calls per step
PROMPT_SLOTS = 1024  # a buffer has room for a multiple of this many prompt tokens, so that most batches need one size

# embeddings [B, Q, D] -> hidden states [B, Q, D] after the last norm
LanguageModel = Callable[[torch.Tensor], torch.Tensor]
# (latents [B, C, H, W], times [B], language model) -> velocity [B, C, H, W]
Velocity = Callable[[torch.Tensor, torch.Tensor, LanguageModel], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedPrompt:
    """The keys and values of one prompt, [L, 2, K, P, E]. `next_position` is the position of the row's time token."""

    kv: torch.Tensor
    next_position: int


class KernelNorm(nn.Module):
    """An RMS norm over the last dimension as one kernel; a library's is seven."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return add_norm(x.reshape(-1, x.shape[-1]).contiguous(), None, self.weight, self.eps)[1].view(x.shape)


class PackedRows:
    """Reads prompts and runs steps of rows that follow them, `num_tokens` tokens per row.

    `graphs` captures the calls on a GPU; None: plain calls.
    """

    def __init__(self, llama: PackedLlama, num_tokens: int, graphs: GraphPool | None = None) -> None:
        self.llama, self.num_tokens, self.graphs = llama, num_tokens, graphs
        self._buffers: list[_Buffer] = []  # the oldest first

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> list[PackedPrompt]:
        """Token ids of each prompt to its keys and values; a prompt's bits do not depend on the others."""
        states = self.llama.prefill(prompts)
        return [PackedPrompt(kv=state.kv, next_position=state.num_tokens) for state in states]

    def run(
        self, velocity: Velocity, z_BCHW: torch.Tensor, t_B: torch.Tensor, prompts: Sequence[PackedPrompt]
    ) -> torch.Tensor:
        """What `velocity` returns for these latents and times; row b of its language model follows `prompts[b]`."""
        buffer = self._buffer_of(tuple(prompts), z_BCHW)
        buffer.z_BCHW.copy_(z_BCHW)
        buffer.t_B.copy_(t_B)
        step = partial(self._step, velocity, buffer)
        if self.graphs:
            self.graphs.run(buffer, step)
        else:
            step()
        return buffer.v_BCHW.clone()

    def _step(self, velocity: Velocity, buffer: _Buffer) -> None:
        buffer.v_BCHW.copy_(velocity(buffer.z_BCHW, buffer.t_B, partial(self._run_language_model, buffer)))

    def _run_language_model(self, buffer: _Buffer, embeds_BQD: torch.Tensor) -> torch.Tensor:
        hidden_TD = self.llama.run(embeds_BQD.flatten(0, 1).contiguous(), buffer.packing, buffer.kv)
        return hidden_TD.view(embeds_BQD.shape)

    def _buffer_of(self, prompts: tuple[PackedPrompt, ...], z_BCHW: torch.Tensor) -> _Buffer:
        """The buffer that holds these prompts; they replace those of the oldest one where none does."""
        for buffer in self._buffers:
            if buffer.prompts == prompts:  # the same objects: a prompt is equal to itself alone
                return buffer
        num_prompt_slots = sum(prompt.kv.shape[3] for prompt in prompts)
        oldest = self._buffers.pop(0) if len(self._buffers) == KEPT_CALLS else None
        if oldest is None or not oldest.has_room(len(prompts), num_prompt_slots):
            if oldest is not None and self.graphs:
                self.graphs.clear()
            del oldest  # freed before the next is allocated
            oldest = _Buffer(self.llama, self.num_tokens, z_BCHW, num_prompt_slots)
        self._buffers.append(oldest)
        oldest.load(prompts)
        return oldest


class _Buffer:
    """The inputs, the prompts, the keys and values and the result of one call of the network."""

    def __init__(self, llama: PackedLlama, num_tokens: int, z_BCHW: torch.Tensor, num_prompt_slots: int) -> None:
        """For as many rows as `z_BCHW` has, with room for the prompts' slots."""
        self.prompts: tuple[PackedPrompt, ...] = ()
        self.num_tokens = num_tokens
        self.z_BCHW = torch.zeros(z_BCHW.shape, device=llama.device)
        self.v_BCHW = torch.zeros_like(self.z_BCHW)
        self.t_B = torch.zeros(len(z_BCHW), device=llama.device)
        self.room = ceil_div(num_prompt_slots, PROMPT_SLOTS) * PROMPT_SLOTS
        self.kv = llama.new_slots(len(z_BCHW) * num_tokens + self.room)
        self.packing = self._pack([0] * len(z_BCHW), [0] * len(z_BCHW))

    def has_room(self, num_rows: int, num_prompt_slots: int) -> bool:
        return num_rows == len(self.z_BCHW) and num_prompt_slots <= self.room

    def load(self, prompts: tuple[PackedPrompt, ...]) -> None:
        """Put a prompt into each row."""
        lengths = [prompt.kv.shape[3] for prompt in prompts]
        self.prompts = ()  # until all of them are there
        self.packing = self._pack(lengths, [prompt.next_position for prompt in prompts]).written_to(self.packing)
        rows = self.kv[:, :, : sum(self.packing.num_slots)].split(self.packing.num_slots, dim=2)
        for slots, prompt, length in zip(rows, prompts, lengths, strict=True):
            slots[:, :, :length] = prompt.kv.transpose(2, 3)
        self.prompts = prompts

    def _pack(self, lengths: Sequence[int], first_positions: Sequence[int]) -> Packing:
        num_new, most_slots = [self.num_tokens] * len(lengths), self.kv.shape[2]
        return pack(lengths, num_new, first_positions, self.kv.device, most_slots=most_slots)
