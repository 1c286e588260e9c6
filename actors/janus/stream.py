"""The batches of a stream on their way through the Janus engine: prompts, codes, pixels, and the answers in order.

B images, N codes of an image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from actors.kernels.image_decoder import Pixels
from actors.request import ImageRequest, Rejection, RenderedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptIds:
    """The token ids of an image's rows. `uncond` is None for an image that is not guided.

    `reasoning` is the text that the model wrote first, None for a model that writes none.
    """

    cond: list[int]
    uncond: list[int] | None
    reasoning: str | None = None

    @property
    def lengths(self) -> list[int]:
        """The prompt tokens of each row."""
        return [len(self.cond)] if self.uncond is None else [len(self.cond), len(self.uncond)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A batch whose codes are chosen: the codes [B, N], and whether each image's logits were finite [B].

    On a GPU they are only enqueued.
    """

    requests: Sequence[ImageRequest]
    prompts: Sequence[PromptIds]
    codes_BN: torch.Tensor
    is_finite_B: torch.Tensor


@dataclass(slots=True)
class Batch:
    """A batch that was asked for, and the answers so far, by index."""

    num_images: int
    answers: dict[int, RenderedImage | Rejection] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return len(self.answers) == self.num_images

    def in_order(self) -> list[RenderedImage | Rejection]:
        return [self.answers[index] for index in range(self.num_images)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Images of a batch, by their indices in it, and their pixels. A GPU has computed those once `done` happens."""

    batch: Batch
    images: Sequence[int]
    tokens: Tokens
    decoded: Pixels
    done: torch.cuda.Event | None

    @property
    def is_done(self) -> bool:
        return self.done is None or self.done.query()


def take_finished(unfinished: deque[Batch]) -> Iterator[list[RenderedImage | Rejection]]:
    """The answers of the first batches that have all of theirs; these leave the queue."""
    while unfinished and unfinished[0].is_finished:
        yield unfinished.popleft().in_order()


def read_answers(tokens: Tokens, decoded: Pixels) -> Iterator[RenderedImage | Rejection]:
    """One answer per request, in order; waits for the device."""
    pixels, codes = decoded.pixels.cpu().numpy(), tokens.codes_BN.to(torch.int32).cpu().numpy()
    are_logits_finite, are_pixels_finite = tokens.is_finite_B.tolist(), decoded.is_finite_B.tolist()
    for b, request in enumerate(tokens.requests):
        if are_logits_finite[b] and are_pixels_finite[b]:
            text = tokens.prompts[b].reasoning
            yield RenderedImage(image_id=request.image_id, pixels=pixels[b], codes=codes[b], reasoning=text)
        else:
            what = "image decoder's numbers" if are_logits_finite[b] else "model's logits"
            yield Rejection(image_id=request.image_id, reason=f"the {what} became NaN or infinite")
