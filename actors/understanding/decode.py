"""The most probable text after each prompt, token by token, with the decode loop of image generation.

R rows of the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.janus.decode_loop import DecodeLoop
from actors.janus.network import CodeModel, TextHead
from actors.llama.cache import PagedCache, PagePool, PromptState, RowCache, pages_of
from actors.llama.linear import MIN_ROWS
from actors.llama.model import Llama, num_slots
from actors.understanding.reader import Reader, ReadPrompt


def decode_greedily(reader: Reader, prompts: Sequence[ReadPrompt], max_tokens: int) -> list[list[int] | None]:
    """Up to `max_tokens` ids after each prompt, to the end of the sentence; None where logits were not finite."""
    states = [prompt.state for prompt in prompts]
    cache = _cache_for(reader, states, max_tokens)
    choice = GreedyChoice(cache.num_rows, reader.tokenizer.end_of_sentence_id, reader.device)
    model = CodeModel(llama=reader.llama, head=TextHead(reader.head), code_embedding_VC=reader.llama.embedding_VC)
    loop = DecodeLoop(model, choice, cache, num_images=cache.num_rows)
    loop.load(states, range(len(states)), [1.0] * len(states))
    choice.load(len(states))
    ids_RN = loop.run(max_tokens, lambda step: False, is_over=lambda: bool(choice.is_done_R.all()))
    return [
        _up_to(ids, choice.end_id) if is_finite else None
        for ids, is_finite in zip(ids_RN.tolist(), choice.is_finite_R.tolist(), strict=True)
    ][: len(states)]


class GreedyChoice:
    """Takes the most probable token. `is_finite_R` and `is_done_R` are about the rows so far; unused rows are done."""

    def __init__(self, num_rows: int, end_id: int, device: torch.device) -> None:
        self.end_id = end_id
        self.is_finite_R, self.is_done_R = torch.ones(2, num_rows, dtype=torch.bool, device=device)

    def load(self, num_prompts: int) -> None:
        """Start a batch."""
        self.is_finite_R.fill_(True)
        self.is_done_R.fill_(True)
        self.is_done_R[:num_prompts] = False

    def __call__(self, step: torch.Tensor, logits_RV: torch.Tensor) -> torch.Tensor:
        token_R = logits_RV.argmax(dim=1)
        self.is_finite_R &= logits_RV.sum(dim=1).isfinite() | self.is_done_R
        self.is_done_R |= (token_R == self.end_id) | ~self.is_finite_R
        return token_R


def _cache_for(reader: Reader, states: Sequence[PromptState], max_tokens: int) -> RowCache | PagedCache:
    llama, lengths = reader.llama, [state.num_tokens + max_tokens for state in states]
    if isinstance(llama, Llama):
        return RowCache(torch.zeros(llama.cache_size(max(len(states), MIN_ROWS), num_slots(max(lengths)))))
    shape = llama.shape
    size = (shape.num_layers, sum(map(pages_of, lengths)), shape.num_kv_heads, shape.head_dim)
    pool = PagePool(size, dtype=llama.cache_dtype, device=llama.device)
    return PagedCache(pool, num_rows=len(states), num_new=max_tokens, context_length=shape.context_length)


def _up_to(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id) + 1] if end_id in ids else ids
