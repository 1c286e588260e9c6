"""The Janus and Janus-Pro engine: a picture's codes one after the other from the language model, then the VQ decoder.

Reads downwards in the order of the data: embed_prompts, prefill, decode_tokens, decode_pixels. Rows of a batch may
differ in prompt, negative prompt, seed, weight and temperature.

The same bytes whatever the batch: prompts are prefilled alone, rows are ragged (`llama.py`), products and attention
keep a row's bits for any number of rows on a CPU (`linear.py`), pictures are decoded in calls of a fixed size. On a GPU
bits depend on the number of rows, so there it is always the same.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actors.code_sampler import CodeSampler
from actors.guidance import guide, is_guided, is_inside
from actors.linear import MIN_ROWS, Linear
from actors.llama import Llama, num_slots
from actors.model_config import read_shape
from actors.prompt import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.vq import load_vq_decoder, to_uint8
from actors.weights import load_weights

# B images, G of them guided, R rows of the model (cond rows first, then one uncond row for each guided image, then
# empty rows), N codes of a picture, T tokens or cache slots, C hidden channels, V codebook entries.

PICTURES_PER_CALL = 2  # of the VQ decoder: a picture alone takes other kernels than a picture among others
CPU_BATCH_SIZE = 8
GPU_ROWS = (256, 128, 64, 32)  # the largest whose cache fits is the number of rows of every batch on that GPU
CACHE_SHARE = 0.6  # of the GPU memory that is free once the weights are loaded
TYPICAL_PROMPT = 64  # tokens, for the estimate of the cache

# step, guided logits float32 [B, V] -> the images' next codes [B]
Choose = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptState:
    """A prompt once it is prefilled: its last hidden state [C] and its keys and values [L, 2, K, T, D]."""

    hidden_C: torch.Tensor
    kv: torch.Tensor

    @property
    def num_tokens(self) -> int:
        return self.kv.shape[3]


class JanusEngine:
    """Renders requests with one Janus or Janus-Pro checkpoint in a folder on this machine's disk.

    `grid_size` overrides the checkpoint's own codes per side (24 for the published ones). Raises CheckpointError.
    """

    family = "janus"
    sampler = "janus-1"

    def __init__(self, recipe: Recipe, folder: Path, *, grid_size: int | None = None) -> None:
        dtype = getattr(torch, recipe.dtype)
        is_gpu = torch.cuda.is_available()
        self.torch_device = torch.device("cuda" if is_gpu else "cpu")
        self.device = torch.cuda.get_device_name() if is_gpu else "cpu"
        self.cfg_interval = recipe.cfg_interval
        self.shape = read_shape(json.loads((Path(folder) / "config.json").read_text("utf-8")))
        self.grid_size = grid_size or self.shape.vq.grid_size
        self.num_codes = self.grid_size**2
        self.tokenizer = PromptTokenizer(folder, recipe.prompt_format)
        weights = load_weights(folder, "janus", dtype=dtype, device=self.torch_device)
        with torch.inference_mode():
            self.llama = Llama(weights, self.shape.llama)
            self.vq = load_vq_decoder(weights, self.shape.vq)
            self.head = _Mlp(weights, "gen_head.output_mlp_projector", "gen_head.vision_head")
            aligner = _Mlp(weights, "gen_aligner.layers.0", "gen_aligner.layers.2")
            # What the model is told of a code is a function of the code alone: a table in place of an MLP per step.
            self.code_embedding_VC = aligner(weights.pop("gen_embed.weight"))
        self.fixed_rows = self._rows_that_fit() if is_gpu else None
        self.default_batch_size = self.fixed_rows // 2 if self.fixed_rows else CPU_BATCH_SIZE
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
        answers: list[RenderedImage | Rejection] = []
        most = self.fixed_rows // 2 if self.fixed_rows else len(requests)
        for start in range(0, len(requests), max(most, 1)):
            answers += self._render_batch(requests[start : start + most])
        return answers

    @torch.inference_mode()
    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What guidance begins with: conditional and unconditional logits of the first code, float32 [V] each."""
        cond = self._prefill_ids(self.tokenizer.cond_ids(prompt))
        uncond = self._uncond_state(cond.num_tokens)
        logits = self.head(torch.stack((cond.hidden_C, uncond.hidden_C))).float()
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
        self, requests: Sequence[ImageRequest], states: list[PromptState], choose: Choose
    ) -> torch.Tensor:
        """The images' codes [B, N]. `choose` picks each step's codes from the guided logits."""
        num_images, guided = len(requests), [b for b, request in enumerate(requests) if is_guided(request.cfg_weight)]
        num_rows = self.fixed_rows or max(len(states), MIN_ROWS)
        image_R = self._tensor([*range(num_images), *guided] + [0] * (num_rows - len(states)))
        # An unguided image stands in for its own unconditional row: guide() then gives its logits back unchanged.
        uncond_B = self._tensor([num_images + guided.index(b) if b in guided else b for b in range(num_images)])
        weight_B = self._tensor([request.cfg_weight for request in requests])
        hidden_RC, length_R, cache = self._start_rows(states, num_rows)
        longest = max(state.num_tokens for state in states)
        codes = []
        for step in range(self.num_codes):
            logits_RV = self.head(hidden_RC).float()
            logits_BV = logits_RV[:num_images]
            if guided and is_inside(self.cfg_interval, step / self.num_codes):
                logits_BV = guide(logits_BV, logits_RV[uncond_B], weight_B)
            codes.append(choose(step, logits_BV))
            if step + 1 < self.num_codes:
                x_RC = self.code_embedding_VC[codes[-1][image_R]]
                hidden_RC = self.llama.decode(x_RC, length_R + step, cache, num_slots(longest + step + 1))
        return torch.stack(codes, dim=1)

    def decode_pixels(self, codes_BN: torch.Tensor) -> tuple[np.ndarray, list[bool]]:
        """Pixels, uint8 [B, height, width, 3], and whether the decoder's numbers were finite, for each image."""
        num_missing = -len(codes_BN) % PICTURES_PER_CALL
        filled = torch.cat([codes_BN, codes_BN[:1].expand(num_missing, -1)])
        grid, pixels, is_finite = (self.grid_size, self.grid_size), [], []
        for part in filled.split(PICTURES_PER_CALL):
            decoded = self.vq(part, grid)
            pixels.append(to_uint8(decoded).cpu())
            is_finite.append(decoded.isfinite().flatten(1).all(dim=1))
        return torch.cat(pixels)[: len(codes_BN)].numpy(), torch.cat(is_finite)[: len(codes_BN)].tolist()

    def _render_batch(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        states = self.prefill(self.embed_prompts(requests))
        sampler = CodeSampler(requests, self.num_codes, self.torch_device)
        codes_BN = self.decode_tokens(requests, states, sampler)
        pixels, are_pixels_finite = self.decode_pixels(codes_BN)
        codes, are_logits_finite = codes_BN.to(torch.int32).cpu().numpy(), sampler.is_finite_B.tolist()
        answers: list[RenderedImage | Rejection] = []
        for b, request in enumerate(requests):
            if are_logits_finite[b] and are_pixels_finite[b]:
                answers.append(RenderedImage(image_id=request.image_id, pixels=pixels[b], codes=codes[b]))
            else:
                what = "picture decoder's numbers" if are_logits_finite[b] else "model's logits"
                answers.append(Rejection(image_id=request.image_id, reason=f"the {what} became NaN or infinite"))
        return answers

    def _start_rows(self, states: list[PromptState], num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Last hidden state [R, C], number of tokens [R] and the cache of the rows; an empty row repeats the first."""
        states = states + states[:1] * (num_rows - len(states))
        longest = max(state.num_tokens for state in states)
        cache = self.llama.new_cache(num_rows, num_slots(longest + self.num_codes))
        for row, state in enumerate(states):
            cache[:, :, row, :, : state.num_tokens] = state.kv
        lengths = self._tensor([state.num_tokens for state in states])
        return torch.stack([state.hidden_C for state in states]), lengths, cache

    def _tensor(self, values: list[int] | list[float]) -> torch.Tensor:
        return torch.tensor(values, device=self.torch_device)

    def _prefill_ids(self, ids: list[int]) -> PromptState:
        x_TC = self.llama.embedding_VC[torch.tensor(ids, device=self.torch_device)]
        hidden_TC, kv = self.llama.prefill(x_TC)
        return PromptState(hidden_C=hidden_TC[-1], kv=kv)

    def _prefill_uncond(self, num_tokens: int) -> PromptState:
        """The unconditional prompt depends on the prompt's length alone: computed once per length."""
        return self._prefill_ids(self.tokenizer.uncond_ids(num_tokens))

    def _rows_that_fit(self) -> int:
        llama = self.shape.llama
        bytes_per_token = (
            2 * llama.num_layers * llama.num_kv_heads * llama.head_dim * self.code_embedding_VC.element_size()
        )
        bytes_per_row = bytes_per_token * num_slots(TYPICAL_PROMPT + self.num_codes)
        free_bytes = torch.cuda.mem_get_info()[0] * CACHE_SHARE
        return next((rows for rows in GPU_ROWS if rows * bytes_per_row <= free_bytes), GPU_ROWS[-1])


class _Mlp:
    """Two matrices with an exact (erf) GELU between them."""

    def __init__(self, weights: dict[str, torch.Tensor], first: str, second: str) -> None:
        self.first = Linear(weights.pop(f"{first}.weight"), weights.pop(f"{first}.bias"), activation="gelu")
        self.second = Linear(weights.pop(f"{second}.weight"), weights.pop(f"{second}.bias"))

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x_RI))
