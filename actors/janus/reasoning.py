"""The text that a model writes before an image, with the decode loop and the kernels of the image itself.

A text is a function of its prompt and its image's seed: each is sampled with uniform numbers of its own, and a row's
bits depend neither on other rows nor on how long they run.

B images, R rows of the model, N tokens of a text at most, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from actors.device import send
from actors.janus.batching import CpuLoops, GpuLoops
from actors.janus.network import CodeModel, TextHead
from actors.janus.sampler import sample_codes
from actors.llama.cache import PromptState
from actors.llama.linear import Linear
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.noise import text_noise
from actors.prompt.protocol import PROTOCOLS, Protocol
from actors.prompt.tokenizer import END_OF_SENTENCE, PromptTokenizer
from actors.request import ImageRequest, Rejection


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    """The text before one image, and the ids of the prompt that the image is generated from."""

    text: str
    cond: list[int]


class Reasoner:
    """Writes the texts of a protocol. `head_VC` is the matrix that predicts text from the model's hidden states.

    `loops` are those of the images; on a GPU the texts use their pages.
    """

    def __init__(
        self,
        protocol: Protocol,
        tokenizer: PromptTokenizer,
        llama: Llama | PackedLlama,
        head_VC: torch.Tensor,
        loops: CpuLoops | GpuLoops,
    ) -> None:
        self.protocol, self.tokenizer, self.image_loops = protocol, tokenizer, loops
        self.ends = (tokenizer.begin_of_image_id, tokenizer.id_of(END_OF_SENTENCE))
        model = CodeModel(llama=llama, head=TextHead(Linear(head_VC)), code_embedding_VC=llama.embedding_VC)
        sampler = partial(TextSampler, protocol=protocol, ends=self.ends[: 1 + protocol.ends_with_sentence])
        self.loops = loops.for_text(model, protocol.max_tokens, sampler)

    def num_tokens(self, prompt: str) -> int:
        """The tokens of an image's prompt with the longest text, or of the question if that needs more room.

        Raises ValueError for a prompt that cannot be encoded.
        """
        question, longest = len(self.question(prompt)), self.protocol.max_tokens
        if not self.protocol.is_rewritten:
            return question + longest + 1
        # No image follows the question itself.
        return max(question - self.image_loops.num_codes, len(self.tokenizer.cond_ids(prompt))) + longest

    def write(self, requests: Sequence[ImageRequest]) -> list[Reasoning | Rejection]:
        """The text of each request, in order. Requests of the same prompt and seed share one."""
        key_of = {request: (request.prompt, request.seed) for request in requests}
        first = {key: request for request, key in reversed(key_of.items())}
        distinct = list(first.values())
        questions = {request.prompt: self.question(request.prompt) for request in distinct}
        states = dict(zip(questions, self.loops.model.llama.prefill(list(questions.values())), strict=True))
        texts: dict[tuple[str, int], list[int] | None] = {}
        for part in self.loops.split([[states[request.prompt].num_tokens] for request in distinct]):
            chosen = [distinct[index] for index in part]
            ids = self._sample(chosen, [states[request.prompt] for request in chosen])
            texts |= {key_of[request]: text for request, text in zip(chosen, ids, strict=True)}
        return [self._reasoning(request, questions[request.prompt], texts[key_of[request]]) for request in requests]

    def question(self, prompt: str) -> list[int]:
        """The ids that the model answers. Raises ValueError for a prompt that cannot be encoded."""
        return [self.tokenizer.bos_id, *self.tokenizer.plain_ids(self.protocol.question_about(prompt))]

    def _sample(self, requests: Sequence[ImageRequest], states: Sequence[PromptState]) -> list[list[int] | None]:
        """The ids of each text, with what ended it; None where the logits were not finite."""
        loop = self.loops.loop_for(len(requests), states)
        sampler = loop.choose
        assert isinstance(sampler, TextSampler)
        sampler.load(requests)
        loop.load(states, range(len(requests)), [1.0] * len(requests))
        ids_BN = loop.run(self.protocol.max_tokens, lambda step: False, is_over=lambda: bool(sampler.is_done_B.all()))
        are_finite = sampler.is_finite_B.tolist()
        return [ids if are_finite[b] else None for b, ids in enumerate(ids_BN[: len(requests)].tolist())]

    def _reasoning(self, request: ImageRequest, question: list[int], ids: list[int] | None) -> Reasoning | Rejection:
        if ids is None:
            reason = "the model's logits became NaN or infinite while it wrote the text before the image"
            return Rejection(image_id=request.image_id, reason=reason)
        begin_of_image, end_of_sentence = self.ends
        ids = self.protocol.text_of(ids, begin_of_image=begin_of_image, end_of_sentence=end_of_sentence)
        text = self.tokenizer.decode(ids)
        if self.protocol.is_rewritten:
            cond = self.tokenizer.cond_ids(f"{request.prompt.strip()}. {text}")
        else:
            cond = [*question, *ids, begin_of_image]
        if len(cond) > self.image_loops.longest_prompt:
            reason = f"with the text before the image the prompt has {len(cond)} tokens, allowed are "
            return Rejection(image_id=request.image_id, reason=f"{reason}{self.image_loops.longest_prompt}")
        return Reasoning(text=text, cond=cond)


class TextSampler:
    """Samples tokens like `CodeSampler`, from the `top_k` most probable ones; a text that has ended stays at its end.

    It never waits for the device: `is_finite_B` and `is_done_B` record the state of each text; unused ones are done.
    """

    def __init__(
        self, num_images: int, num_tokens: int, device: torch.device, *, protocol: Protocol, ends: Sequence[int]
    ) -> None:
        self.top_k = protocol.top_k
        self.uniform_BN = torch.zeros(num_images, num_tokens, dtype=torch.float64, device=device)
        self.temperature_B = torch.full((num_images,), protocol.temperature, device=device)
        self.is_finite_B, self.is_done_B = torch.ones(2, num_images, dtype=torch.bool, device=device)
        self.ends = torch.tensor(ends, device=device)

    def load(self, requests: Sequence[ImageRequest]) -> None:
        """Start a batch of these images."""
        noise = np.stack([text_noise(request.seed, self.uniform_BN.shape[1]) for request in requests])
        self.uniform_BN[: len(requests)] = send(torch.from_numpy(noise), self.uniform_BN.device)
        self.is_finite_B.fill_(True)
        self.is_done_B.fill_(True)
        self.is_done_B[: len(requests)] = False

    def __call__(self, step: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        self.is_finite_B &= logits_BV.sum(dim=1).isfinite() | self.is_done_B
        self.is_done_B |= ~self.is_finite_B
        if self.top_k is not None and self.top_k < logits_BV.shape[1]:
            least_B1 = logits_BV.topk(self.top_k, dim=1).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
        uniform_B = self.uniform_BN.index_select(1, step.view(1)).squeeze(1)
        token_B = sample_codes(logits_BV, uniform_B, self.temperature_B)
        token_B = torch.where(self.is_done_B, self.ends[0], token_B)
        self.is_done_B |= (token_B[:, None] == self.ends).any(dim=1)
        return token_B


def protocol_of(name: str | None) -> Protocol | None:
    """The protocol of a recipe."""
    return None if name is None else PROTOCOLS[name]
