"""Short looks at a Janus engine: what a template does to its predictions, and how long an image takes.

B images, R rows of the model, V codebook entries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from actors.device import timed
from actors.guidance import is_guided
from actors.janus.batching import CpuLoops, GpuLoops
from actors.janus.network import CodeModel
from actors.janus.reasoning import Reasoner
from actors.janus.sampler import CodeSampler
from actors.llama.cache import PromptState
from actors.prompt.tokenizer import PromptTokenizer
from actors.request import ImageRequest

NUM_CODES_LOOKED_AT = 24
NUM_CODES_TIMED = 6


class Probed(Protocol):
    """The parts of a Janus engine that are looked at."""

    torch_device: torch.device
    num_codes: int
    model: CodeModel
    loops: CpuLoops | GpuLoops
    reasoner: Reasoner | None
    decode_pixels: Callable[[torch.Tensor], object]

    def tokenize(self, request: ImageRequest, /) -> Any: ...

    def prefill(self, prompts: Sequence[Any], /) -> list[PromptState]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateProbe:
    """How a model answers a template, on average over the first codes of a few images, in bits.

    * `entropy`: of a code's distribution. The lower it is, the surer the model.
    * `guidance_effect`: the divergence of the distributions with and without the prompt (Kullback-Leibler). The higher
      it is, the more guidance can do.
    """

    entropy: float
    guidance_effect: float


@torch.inference_mode()
def probe_template(engine: Probed, tokenizer: PromptTokenizer, requests: Sequence[ImageRequest]) -> TemplateProbe:
    """Sample the first codes of the images without guidance, under a tokenizer with the template.

    Each unconditional prompt is a row of its own that reads the codes of its image.
    """
    rows = [tokenizer.cond_ids(request.prompt) for request in requests]
    rows += [tokenizer.uncond_ids(len(ids)) for ids in rows]
    states, num_images = engine.model.llama.prefill(rows), len(requests)
    sampler = CodeSampler(num_images, engine.num_codes, engine.torch_device)
    sampler.load(requests)
    nats = []

    def choose(step: torch.Tensor, logits_RV: torch.Tensor) -> torch.Tensor:
        cond_BV, uncond_BV = torch.log_softmax(logits_RV[: 2 * num_images].double(), dim=1).chunk(2)
        entropy_B = -(cond_BV.exp() * cond_BV).sum(dim=1)
        divergence_B = (cond_BV.exp() * (cond_BV - uncond_BV)).sum(dim=1)
        nats.append(torch.stack((entropy_B, divergence_B)).mean(dim=1))
        codes_B = sampler(step, logits_RV[:num_images])
        return F.pad(codes_B.repeat(2), (0, len(logits_RV) - 2 * num_images))

    loop = engine.loops.loop_for(len(states), states, choose)
    loop.load(states, range(len(states)), [1.0] * len(states))
    loop.run(min(NUM_CODES_LOOKED_AT, engine.num_codes), lambda step: False)
    entropy, divergence = (torch.stack(nats).mean(dim=0) / math.log(2)).tolist()
    return TemplateProbe(entropy=entropy, guidance_effect=divergence)


@torch.inference_mode()
def seconds_per_batch(engine: Probed, request: ImageRequest, num_images: int) -> float:
    """Seconds for a batch of images like this one, from the first tokens of each pass and from one decoded image.

    Where fewer images with such long prompts fit into a batch, the seconds are those of several smaller ones.
    """
    requests = [dataclasses.replace(request, seed=seed) for seed in range(num_images)]
    prompts = [engine.tokenize(one) for one in requests]
    num_fitting = _num_fitting(engine.loops, [prompt.lengths for prompt in prompts])
    states, prefill = timed(engine.torch_device, lambda: engine.prefill(prompts[:num_fitting]))
    guided = range(num_fitting) if is_guided(request.cfg_weight) else ()
    image_of_rows = [*range(num_fitting), *guided]
    codes = _seconds_of_loop(engine, engine.loops, requests[:num_fitting], states, image_of_rows)
    seconds = (prefill + codes) * num_images / num_fitting
    if engine.reasoner:
        question, loops = engine.reasoner.question(request.prompt), engine.reasoner.loops
        num_fitting = _num_fitting(loops, [[len(question)]] * num_images)
        states, prefill = timed(engine.torch_device, lambda: engine.model.llama.prefill([question]))
        texts = _seconds_of_loop(engine, loops, requests[:num_fitting], states * num_fitting, range(num_fitting))
        seconds += prefill + texts * num_images / num_fitting
    codes_1N = torch.zeros(1, engine.num_codes, dtype=torch.long, device=engine.torch_device)
    engine.decode_pixels(codes_1N)
    _, decode = timed(engine.torch_device, lambda: engine.decode_pixels(codes_1N))
    return seconds + decode * num_images


def _num_fitting(loops: CpuLoops | GpuLoops, prompt_lengths: Sequence[Sequence[int]]) -> int:
    """How many of these images, given the prompt length of each of an image's rows, the first batch has."""
    return len(loops.split(prompt_lengths)[0])


def _seconds_of_loop(
    engine: Probed,
    loops: CpuLoops | GpuLoops,
    requests: Sequence[ImageRequest],
    states: Sequence[PromptState],
    image_of_rows: Sequence[int],
) -> float:
    """Seconds for all tokens of a batch, from the first ones."""
    loop = loops.loop_for(len(requests), states)
    loop.choose.load(requests)
    loop.load(states, image_of_rows, [request.cfg_weight for request in requests])
    num_timed = min(NUM_CODES_TIMED, loops.num_codes)
    loop.run(1, lambda step: len(states) > len(requests))
    _, seconds = timed(engine.torch_device, lambda: loop.run(num_timed, lambda step: len(states) > len(requests)))
    return seconds / num_timed * loops.num_codes
