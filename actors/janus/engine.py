"""The Janus and Janus-Pro engine: a picture's codes one after the other from the language model, then the VQ decoder.

Reads downwards in the order of the data: embed_prompts, prefill, decode_tokens, decode_pixels. Rows of a batch may
differ in prompt, negative prompt, seed, weight and temperature.

The same bytes whatever the batch: prompts are prefilled alone, rows are ragged (`llama.py`), products and attention
keep a row's bits for any number of rows on a CPU (`linear.py`), pictures are decoded in calls of a fixed size. On a GPU
bits depend on shapes, so there a row's shapes are a function of the row (`batch_size.py`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.checkpoint.config import read_shape
from actors.checkpoint.weights import load_weights
from actors.device import DTYPES, find_device, to_compute_dtype
from actors.guidance import is_guided, is_inside
from actors.janus.batching import LoopPool
from actors.janus.decode_loop import DecodeLoop
from actors.janus.decoder import load_vq_decoder
from actors.janus.network import CodeModel, PromptState
from actors.layers import to_uint8
from actors.llama.linear import Mlp
from actors.llama.model import Llama
from actors.prompt import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage

# B images, G of them guided, R rows of the model (cond rows first, then one uncond row for each guided image, then
# empty rows), N codes of a picture, T tokens or cache slots, C hidden channels, V codebook entries.

# Of one call of the VQ decoder: a picture alone takes other kernels than a picture among others.
PICTURES_PER_CALL = {"cpu": 2, "cuda": 8}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A batch whose codes are chosen: the codes [B, N], and whether each image's logits were finite [B].

    `chosen` happens on a GPU when they are there: until then they are only asked for.
    """

    requests: Sequence[ImageRequest]
    codes_BN: torch.Tensor
    is_finite_B: torch.Tensor
    chosen: torch.cuda.Event | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """Pixels, uint8 [B, height, width, 3], and whether the decoder's numbers were finite [B], both on the device."""

    pixels: torch.Tensor
    is_finite_B: torch.Tensor


class JanusEngine:
    """Renders requests with one Janus or Janus-Pro checkpoint in a folder on this machine's disk.

    `grid_size` overrides the checkpoint's own codes per side (24 for the published ones). `weights` are its tensors
    where somebody has them already. Raises CheckpointError.
    """

    family = "janus"
    sampler = "janus-3"

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        grid_size: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        dtype = DTYPES[recipe.dtype]
        self.torch_device, self.device = find_device()
        self.cfg_interval = recipe.cfg_interval
        self.shape = read_shape(json.loads((Path(folder) / "config.json").read_text("utf-8")))
        self.grid_size = grid_size or self.shape.vq.grid_size
        self.num_codes = self.grid_size**2
        self.tokenizer = PromptTokenizer(folder, recipe.prompt_format)
        if weights is None:
            weights = load_weights(folder, "janus", dtype=dtype, device=self.torch_device)
        weights = to_compute_dtype(weights)
        with torch.inference_mode():
            llama = Llama(weights, self.shape.llama, is_fp8=recipe.dtype == "fp8")
            self.vq = load_vq_decoder(weights, self.shape.vq)
            head = Mlp(weights, "gen_head.output_mlp_projector", "gen_head.vision_head")
            aligner = Mlp(weights, "gen_aligner.layers.0", "gen_aligner.layers.2")
            # What the model is told of a code is a function of the code alone: a table in place of an MLP per step.
            self.model = CodeModel(llama=llama, head=head, code_embedding_VC=aligner(weights.pop("gen_embed.weight")))
        self.loops = LoopPool(self.model, self.num_codes)
        self.default_batch_size = self.loops.images_per_call(1 + any(map(is_guided, recipe.cfg_weights)))
        self._beside = torch.cuda.Stream() if self.torch_device.type == "cuda" else None
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
                    f"{name} must have at most {longest} tokens beside the image's {self.num_codes}, got {num_tokens}"
                )
        return None

    @torch.inference_mode()
    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order."""
        num_rows = [1 + is_guided(request.cfg_weight) for request in requests]
        batches = self.loops.split([self._longest_prompt(request) for request in requests], num_rows)
        chosen: list[Tokens] = []
        pictures: list[Pictures] = []
        for places in batches:
            chosen.append(self.choose_codes([requests[place] for place in places]))
            if len(chosen) > 1:  # on a GPU its kernels find room beside the tokens that were asked for just now
                pictures.append(self._decode_beside(chosen[-2]))
        pictures += [self._decode_beside(tokens) for tokens in chosen[-1:]]
        if self._beside:
            torch.cuda.current_stream().wait_stream(self._beside)
        answers = {}
        for places, tokens, decoded in zip(batches, chosen, pictures, strict=True):
            answers.update(zip(places, _answers(tokens, decoded), strict=True))
        return [answers[place] for place in range(len(requests))]

    @torch.inference_mode()
    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What guidance begins with: conditional and unconditional logits of the first code, float32 [V] each."""
        cond = self._prefill_ids(self.tokenizer.cond_ids(prompt))
        uncond = self._uncond_state(cond.num_tokens)
        logits = self.model.head(torch.stack((cond.hidden_C, uncond.hidden_C))).float()
        return logits[0], logits[1]

    def embed_prompts(self, requests: Sequence[ImageRequest]) -> list[list[int]]:
        """Token ids of each row: the images' prompts, then what each guided image is steered away from."""
        cond = [self.tokenizer.cond_ids(request.prompt) for request in requests]
        uncond = [
            self.tokenizer.uncond_ids(len(ids))
            if request.negative_prompt is None
            else self.tokenizer.cond_ids(request.negative_prompt)
            for request, ids in zip(requests, cond, strict=True)
            if is_guided(request.cfg_weight)
        ]
        return cond + uncond

    def prefill(self, ids_of_rows: Sequence[list[int]]) -> list[PromptState]:
        """Each distinct prompt once and alone, for all rows that share it."""
        states: dict[tuple[int, ...], PromptState] = {}
        for ids in ids_of_rows:
            if tuple(ids) not in states:
                is_uncond = ids == self.tokenizer.uncond_ids(len(ids))
                states[tuple(ids)] = self._uncond_state(len(ids)) if is_uncond else self._prefill_ids(ids)
        return [states[tuple(ids)] for ids in ids_of_rows]

    def decode_tokens(
        self, loop: DecodeLoop, requests: Sequence[ImageRequest], states: Sequence[PromptState]
    ) -> torch.Tensor:
        """The images' codes [B, N], chosen as the loop was made to."""
        cfg_weights = [request.cfg_weight for request in requests]
        guided = [b for b, weight in enumerate(cfg_weights) if is_guided(weight)]
        loop.load(states, [*range(len(requests)), *guided], cfg_weights)

        def is_guiding(step: int) -> bool:
            return bool(guided) and is_inside(self.cfg_interval, step / self.num_codes)

        return loop.run(self.num_codes, is_guiding)[: len(requests)]

    def decode_pixels(self, codes_BN: torch.Tensor) -> Pictures:
        """Codes to pictures, in calls of a fixed size."""
        size = PICTURES_PER_CALL[self.torch_device.type]
        num_missing = -len(codes_BN) % size
        filled = torch.cat([codes_BN, codes_BN[:1].expand(num_missing, -1)])
        grid, pixels, is_finite = (self.grid_size, self.grid_size), [], []
        for part in filled.split(size):
            decoded = self.vq(part, grid)
            pixels.append(to_uint8(decoded))
            is_finite.append(decoded.isfinite().flatten(1).all(dim=1))
        return Pictures(pixels=torch.cat(pixels)[: len(codes_BN)], is_finite_B=torch.cat(is_finite)[: len(codes_BN)])

    def choose_codes(self, requests: Sequence[ImageRequest]) -> Tokens:
        """One batch, from its prompts to its codes."""
        states = self.prefill(self.embed_prompts(requests))
        loop = self.loops.loop_for(len(requests), len(states), max(state.num_tokens for state in states))
        loop.choose.load(requests)
        codes_BN = self.decode_tokens(loop, requests, states)
        is_finite_B = loop.choose.is_finite_B[: len(requests)].clone()
        chosen = torch.cuda.current_stream().record_event() if self._beside else None
        return Tokens(requests=requests, codes_BN=codes_BN, is_finite_B=is_finite_B, chosen=chosen)

    def _decode_beside(self, tokens: Tokens) -> Pictures:
        """Codes to pictures; on a GPU on a stream of its own, as soon as the codes are there."""
        if not self._beside:
            return self.decode_pixels(tokens.codes_BN)
        self._beside.wait_event(tokens.chosen)
        tokens.codes_BN.record_stream(self._beside)
        with torch.cuda.stream(self._beside):
            return self.decode_pixels(tokens.codes_BN)

    def _longest_prompt(self, request: ImageRequest) -> int:
        """Tokens of the image's prompt, or of the negative one its second row follows."""
        texts = [request.prompt]
        if request.negative_prompt is not None and is_guided(request.cfg_weight):
            texts.append(request.negative_prompt)
        return max(len(self.tokenizer.cond_ids(text)) for text in texts)

    def _prefill_ids(self, ids: list[int]) -> PromptState:
        x_TC = self.model.llama.embedding_VC[torch.tensor(ids, device=self.torch_device)]
        hidden_TC, kv = self.model.llama.prefill(x_TC)
        return PromptState(hidden_C=hidden_TC[-1], kv=kv)

    def _prefill_uncond(self, num_tokens: int) -> PromptState:
        """The unconditional prompt depends on the prompt's length alone: computed once per length."""
        return self._prefill_ids(self.tokenizer.uncond_ids(num_tokens))


def _answers(tokens: Tokens, pictures: Pictures) -> Iterator[RenderedImage | Rejection]:
    pixels, codes = pictures.pixels.cpu().numpy(), tokens.codes_BN.to(torch.int32).cpu().numpy()
    are_logits_finite, are_pixels_finite = tokens.is_finite_B.tolist(), pictures.is_finite_B.tolist()
    for b, request in enumerate(tokens.requests):
        if are_logits_finite[b] and are_pixels_finite[b]:
            yield RenderedImage(image_id=request.image_id, pixels=pixels[b], codes=codes[b])
        else:
            what = "picture decoder's numbers" if are_logits_finite[b] else "model's logits"
            yield Rejection(image_id=request.image_id, reason=f"the {what} became NaN or infinite")
