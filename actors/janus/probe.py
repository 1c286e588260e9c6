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
    """Seconds for a batch of images like this one, from the first codes and from one decoded image."""
    requests = [dataclasses.replace(request, seed=seed) for seed in range(num_images)]
    prompts = [engine.tokenize(one) for one in requests]
    states, prefill = timed(engine.torch_device, lambda: engine.prefill(prompts))
    loop = engine.loops.loop_for(num_images, states)
    loop.choose.load(requests)
    guided = range(num_images) if is_guided(request.cfg_weight) else ()
    loop.load(states, [*range(num_images), *guided], [request.cfg_weight] * num_images)
    num_timed = min(NUM_CODES_TIMED, engine.num_codes)
    loop.run(1, lambda step: True)
    _, codes = timed(engine.torch_device, lambda: loop.run(num_timed, lambda step: True))
    codes_1N = torch.zeros(1, engine.num_codes, dtype=torch.long, device=engine.torch_device)
    engine.decode_pixels(codes_1N)
    _, decode = timed(engine.torch_device, lambda: engine.decode_pixels(codes_1N))
    return prefill + codes / num_timed * engine.num_codes + decode * num_images
