"""The Janus and Janus-Pro engine: an image's codes one after the other from the language model, then the VQ decoder.

Reads downwards in the order of the data: tokenize, prefill, decode_tokens, decode_pixels. Rows of a batch may differ
in prompt, negative prompt, seed, weight and temperature.

An image has the same bytes in any batch. Prompts are prefilled alone, rows are ragged (`actors/llama/model.py`), matrix
products and attention keep a row's bits for any number of rows on a CPU (`actors/llama/linear.py`), and images are
decoded in calls of a fixed size. On a GPU bits depend on shapes, so the shapes that a row is computed in are a function
of the row (`batching.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from actors.checkpoint.open import Checkpoint
from actors.device import DTYPES, find_device, to_compute_dtype
from actors.guidance import is_guided, is_inside
from actors.janus.batching import LoopPool
from actors.janus.decode_loop import DecodeLoop
from actors.janus.decoder import load_vq_decoder
from actors.janus.network import PromptState, build_code_model, read_weights
from actors.layers import to_uint8
from actors.prompt import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage

# B images, G of them guided, R rows of the model (cond rows first, then one uncond row for each guided image, then
# empty rows), N codes of an image, T tokens or cache slots, C hidden channels, V codebook entries.

# Images per call of the VQ decoder: a single image would use other kernels than an image with neighbors.
IMAGES_PER_DECODE = {"cpu": 2, "cuda": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptIds:
    """The token ids of an image's rows. `uncond` is None for an image that is not guided."""

    cond: list[int]
    uncond: list[int] | None

    @property
    def num_rows(self) -> int:
        return 1 if self.uncond is None else 2

    @property
    def num_tokens(self) -> int:
        """Of the longer row."""
        return max(len(self.cond), len(self.uncond or ()))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A batch whose codes are chosen: the codes [B, N], and whether each image's logits were finite [B].

    On a GPU they are only enqueued; the event `chosen` happens once they are computed.
    """

    requests: Sequence[ImageRequest]
    codes_BN: torch.Tensor
    is_finite_B: torch.Tensor
    chosen: torch.cuda.Event | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pixels:
    """Pixels, uint8 [B, height, width, 3], and whether the decoder's numbers were finite [B], both on the device."""

    pixels: torch.Tensor
    is_finite_B: torch.Tensor


class JanusEngine:
    """Renders requests with one fetched Janus or Janus-Pro checkpoint.

    `grid_size` overrides the checkpoint's own codes per side (24 for the published ones). `weights` are its tensors if
    the caller already has them. Raises CheckpointError.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        *,
        grid_size: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.torch_device, self.device = find_device()
        self.cfg_interval = recipe.cfg_interval
        self.shape = checkpoint.shape
        self.grid_size = grid_size or self.shape.vq.grid_size
        self.num_codes = self.grid_size**2
        self.tokenizer = PromptTokenizer(checkpoint.path, checkpoint.prompt_format)
        if weights is None:
            weights = read_weights(checkpoint, dtype=DTYPES[recipe.dtype], device=self.torch_device)
        weights = to_compute_dtype(weights)
        with torch.inference_mode():
            self.model = build_code_model(weights, self.shape, is_fp8=recipe.dtype == "fp8")
            self.vq = load_vq_decoder(weights, self.shape.vq)
        self.loops = LoopPool(self.model, self.num_codes)
        self.default_batch_size = self.loops.images_per_call(1 + any(map(is_guided, recipe.cfg_weights)))
        self._decode_stream = torch.cuda.Stream() if self.torch_device.type == "cuda" else None
        self._uncond_state = functools.lru_cache(maxsize=64)(self._prefill_uncond)

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered, or None."""
        for name in ("prompt", "negative_prompt"):
            text = getattr(request, name)
            try:
                num_tokens = 0 if text is None else len(self.tokenizer.cond_ids(text))
            except ValueError as error:
                return str(error)
            longest = self.shape.llama.context_length - self.num_codes
            if num_tokens > longest:
                return (
                    f"{name} must have at most {longest} tokens, to leave room for the image's {self.num_codes}, "
                    f"got {num_tokens}"
                )
        return None

    @torch.inference_mode()
    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order."""
        prompts = [self.tokenize(request) for request in requests]
        batches = self.loops.split([ids.num_tokens for ids in prompts], [ids.num_rows for ids in prompts])
        chosen: list[Tokens] = []
        decoded: list[Pixels] = []
        for images in batches:
            chosen.append(self.choose_codes([requests[i] for i in images], [prompts[i] for i in images]))
            if len(chosen) > 1:  # on a GPU its kernels run alongside those of the batch just enqueued
                decoded.append(self._decode_alongside(chosen[-2]))
        decoded += [self._decode_alongside(tokens) for tokens in chosen[-1:]]
        if self._decode_stream:
            torch.cuda.current_stream().wait_stream(self._decode_stream)
        answers = {}
        for images, tokens, pixels in zip(batches, chosen, decoded, strict=True):
            answers.update(zip(images, _answers(tokens, pixels), strict=True))
        return [answers[image] for image in range(len(requests))]

    @torch.inference_mode()
    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What guidance begins with: conditional and unconditional logits of the first code, float32 [V] each."""
        cond = self._prefill_ids(self.tokenizer.cond_ids(prompt))
        uncond = self._uncond_state(cond.num_tokens)
        logits = self.model.head(torch.stack((cond.hidden_C, uncond.hidden_C))).float()
        return logits[0], logits[1]

    def choose_codes(self, requests: Sequence[ImageRequest], prompts: Sequence[PromptIds]) -> Tokens:
        """One batch, from its prompts to its codes."""
        states = self.prefill(prompts)
        loop = self.loops.loop_for(len(requests), len(states), max(state.num_tokens for state in states))
        loop.choose.load(requests)
        codes_BN = self.decode_tokens(loop, requests, states)
        is_finite_B = loop.choose.is_finite_B[: len(requests)].clone()
        chosen = torch.cuda.current_stream().record_event() if self._decode_stream else None
        return Tokens(requests=requests, codes_BN=codes_BN, is_finite_B=is_finite_B, chosen=chosen)

    def tokenize(self, request: ImageRequest) -> PromptIds:
        """The ids of an image's prompt and, if it is guided, of its negative or the unconditional prompt."""
        cond = self.tokenizer.cond_ids(request.prompt)
        if not is_guided(request.cfg_weight):
            return PromptIds(cond=cond, uncond=None)
        if request.negative_prompt is None:
            return PromptIds(cond=cond, uncond=self.tokenizer.uncond_ids(len(cond)))
        return PromptIds(cond=cond, uncond=self.tokenizer.cond_ids(request.negative_prompt))

    def prefill(self, prompts: Sequence[PromptIds]) -> list[PromptState]:
        """The state of every row: the images' prompts, then the uncond rows of guided images.

        Each distinct prompt is computed once and alone, for all rows that share it.
        """
        ids_of_rows = [ids.cond for ids in prompts] + [ids.uncond for ids in prompts if ids.uncond is not None]
        states: dict[tuple[int, ...], PromptState] = {}
        for ids in ids_of_rows:
            if tuple(ids) not in states:
                is_uncond = ids == self.tokenizer.uncond_ids(len(ids))
                states[tuple(ids)] = self._uncond_state(len(ids)) if is_uncond else self._prefill_ids(ids)
        return [states[tuple(ids)] for ids in ids_of_rows]

    def decode_tokens(
        self, loop: DecodeLoop, requests: Sequence[ImageRequest], states: Sequence[PromptState]
    ) -> torch.Tensor:
        """The images' codes [B, N], chosen by the loop's sampler."""
        cfg_weights = [request.cfg_weight for request in requests]
        guided = [b for b, weight in enumerate(cfg_weights) if is_guided(weight)]
        loop.load(states, [*range(len(requests)), *guided], cfg_weights)

        def is_guiding(step: int) -> bool:
            return bool(guided) and is_inside(self.cfg_interval, step / self.num_codes)

        return loop.run(self.num_codes, is_guiding)[: len(requests)]

    def decode_pixels(self, codes_BN: torch.Tensor) -> Pixels:
        """Codes to pixels, in calls of a fixed size."""
        size = IMAGES_PER_DECODE[self.torch_device.type]
        num_missing = -len(codes_BN) % size
        filled = torch.cat([codes_BN, codes_BN[:1].expand(num_missing, -1)])
        grid, pixels, is_finite = (self.grid_size, self.grid_size), [], []
        for part in filled.split(size):
            decoded = self.vq(part, grid)
            pixels.append(to_uint8(decoded))
            is_finite.append(decoded.isfinite().flatten(1).all(dim=1))
        return Pixels(pixels=torch.cat(pixels)[: len(codes_BN)], is_finite_B=torch.cat(is_finite)[: len(codes_BN)])

    def _decode_alongside(self, tokens: Tokens) -> Pixels:
        """Codes to pixels; on a GPU on a stream of its own, as soon as the codes are computed."""
        if not self._decode_stream:
            return self.decode_pixels(tokens.codes_BN)
        self._decode_stream.wait_event(tokens.chosen)
        tokens.codes_BN.record_stream(self._decode_stream)
        with torch.cuda.stream(self._decode_stream):
            return self.decode_pixels(tokens.codes_BN)

    def _prefill_ids(self, ids: list[int]) -> PromptState:
        x_TC = self.model.llama.embedding_VC[torch.tensor(ids, device=self.torch_device)]
        hidden_TC, kv = self.model.llama.prefill(x_TC)
        return PromptState(hidden_C=hidden_TC[-1], kv=kv)

    def _prefill_uncond(self, num_tokens: int) -> PromptState:
        """The unconditional prompt depends on the prompt's length alone: computed once per length."""
        return self._prefill_ids(self.tokenizer.uncond_ids(num_tokens))


def _answers(tokens: Tokens, decoded: Pixels) -> Iterator[RenderedImage | Rejection]:
    pixels, codes = decoded.pixels.cpu().numpy(), tokens.codes_BN.to(torch.int32).cpu().numpy()
    are_logits_finite, are_pixels_finite = tokens.is_finite_B.tolist(), decoded.is_finite_B.tolist()
    for b, request in enumerate(tokens.requests):
        if are_logits_finite[b] and are_pixels_finite[b]:
            yield RenderedImage(image_id=request.image_id, pixels=pixels[b], codes=codes[b])
        else:
            what = "image decoder's numbers" if are_logits_finite[b] else "model's logits"
            yield Rejection(image_id=request.image_id, reason=f"the {what} became NaN or infinite")
