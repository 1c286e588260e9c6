"""The language model's part of a step on a GPU: the tokens of all rows as one matrix, attention in one call per layer.

A row's prompt is computed once; a call of the network has the prompts' keys and values in one buffer, each row's own
after its prompt, and writes only the latter at every step.

Shapes: B rows, Q tokens of a row in one step, D hidden channels, L layers, K key/value heads, P tokens of a prompt,
E channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.llama.packed import PackedLlama
from actors.llama.packing import Packing, pack

KEPT_CALLS = 2  # buffers: 16 guided images make two calls per step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedPrompt:
    """The keys and values of one prompt, [L, 2, K, P, E]. `next_position` is the position of the row's time token."""

    kv: torch.Tensor
    next_position: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """The rows of one call of the network, and the buffer of their keys and values."""

    prompts: tuple[PackedPrompt, ...]
    packing: Packing
    kv: torch.Tensor


class PackedRows:
    """Reads prompts and runs steps of rows that follow them, `num_tokens` tokens per row."""

    def __init__(self, llama: PackedLlama, num_tokens: int) -> None:
        self.llama, self.num_tokens = llama, num_tokens
        self._calls: list[_Call] = []  # the oldest first

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> list[PackedPrompt]:
        """Token ids of each prompt to its keys and values; a prompt's bits do not depend on the others."""
        states = self.llama.prefill(prompts)
        return [PackedPrompt(kv=state.kv, next_position=state.num_tokens) for state in states]

    def run(self, embeds_BQD: torch.Tensor, prompts: Sequence[PackedPrompt]) -> torch.Tensor:
        """Hidden states [B, Q, D] after the last norm; row b follows `prompts[b]`."""
        call = self._call_of(tuple(prompts))
        hidden_TD = self.llama.run(embeds_BQD.flatten(0, 1).contiguous(), call.packing, call.kv)
        return hidden_TD.view(embeds_BQD.shape)

    def _call_of(self, prompts: tuple[PackedPrompt, ...]) -> _Call:
        for call in self._calls:
            if call.prompts == prompts:  # the same objects: a prompt is equal to itself alone
                return call
        if len(self._calls) == KEPT_CALLS:
            del self._calls[0]  # freed before the next is allocated
        self._calls.append(self._new_call(prompts))
        return self._calls[-1]

    def _new_call(self, prompts: tuple[PackedPrompt, ...]) -> _Call:
        lengths = [prompt.kv.shape[3] for prompt in prompts]
        first_positions = [prompt.next_position for prompt in prompts]
        packing = pack(lengths, [self.num_tokens] * len(prompts), first_positions, self.llama.device)
        kv = self.llama.new_slots(sum(packing.num_slots))
        for slots, prompt, length in zip(kv.split(packing.num_slots, dim=2), prompts, lengths, strict=True):
            slots[:, :, :length] = prompt.kv.transpose(2, 3)
        return _Call(prompts=prompts, packing=packing, kv=kv)
