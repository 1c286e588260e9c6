"""The best speed that a device allows, from counted bytes and operations and measured ceilings.

A render can move its bytes no faster than a large copy and multiply no faster than a large matrix product. Step by
step, the slower of the two is the limit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from actors.janus.config import JanusShape
from actors.janus.decoder import VQDecoder
from actors.janusflow.config import FlowShape
from actors.janusflow.network import FlowNetwork
from actors.llama.config import LlamaShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """Measured on the device: bytes read and written a second by a copy, multiply-adds x 2 a second by a product."""

    bytes_per_s: float
    flops_per_s: float

    def seconds(self, num_bytes: float, num_flops: float) -> float:
        return max(num_bytes / self.bytes_per_s, num_flops / self.flops_per_s)


def measure_ceilings(device: torch.device, dtype: torch.dtype, clock: Callable[[], float]) -> Ceilings:
    is_gpu = device.type == "cuda"
    source = torch.empty(2**30 if is_gpu else 2**27, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    size = 8192 if is_gpu else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    copy_s = _median_seconds(lambda: target.copy_(source), device, clock)
    product_s = _median_seconds(lambda: left @ right, device, clock)
    return Ceilings(bytes_per_s=2 * len(source) / copy_s, flops_per_s=2 * size**3 / product_s)


def janus_limit(
    shape: JanusShape, dtype: torch.dtype, cache_dtype: torch.dtype, prompt: int, num_images: int, ceilings: Ceilings
) -> float:
    """Seconds at best for `num_images` guided images of one prompt of `prompt` tokens.

    Every step reads the matrices once, and each of two rows an image the keys and values before it; the head's last
    matrix multiplies one row an image. Counted: the text model and the generation head, of matrices in `dtype`, and the
    image decoder. Not counted: the prompt, norms, softmax, sampling.
    """
    llama, num_rows = shape.llama, 2 * num_images
    num_weights = matrix_weights(llama)
    head, last = shape.head_size * llama.hidden_size, shape.head_size * shape.vq.codebook_size
    matrix_bytes = num_weights * dtype.itemsize + (head + last) * dtype.itemsize
    matrix_flops = 2 * num_rows * (num_weights + head) + 2 * num_images * last
    kv_channels = 2 * llama.num_layers * llama.num_kv_heads * llama.head_dim  # of one token
    seconds = 0.0
    for step in range(shape.vq.num_codes):
        num_keys = prompt + step
        num_bytes = matrix_bytes + num_rows * num_keys * kv_channels * cache_dtype.itemsize
        num_flops = matrix_flops + num_rows * num_keys * _attention_flops(llama)
        seconds += ceilings.seconds(num_bytes, num_flops)
    return seconds + vq_flops(shape) * num_images / ceilings.flops_per_s


def flow_limit(
    shape: FlowShape, vae_flops: float, prompt: int, num_steps: int, num_images: int, ceilings: Ceilings
) -> float:
    """Seconds at best for `num_images` guided images: arithmetic alone, the weights are read for hundreds of tokens."""
    llama, num_rows, num_tokens = shape.llama, 2 * num_images, shape.num_image_tokens + 1
    keys = num_tokens * (num_tokens + 1) // 2 + num_tokens * (prompt + 1) / 2  # bos alone in an unconditional row
    text_flops = 2 * num_tokens * matrix_weights(llama) + keys * _attention_flops(llama)
    flops = num_rows * num_steps * (text_flops + uvit_flops(shape)) + num_images * vae_flops
    return flops / ceilings.flops_per_s


def vq_flops(shape: JanusShape) -> float:
    """Operations to decode one image, as torch counts them."""
    with torch.device("meta"):
        vq, codes = VQDecoder(shape.vq), torch.zeros(1, shape.vq.num_codes, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            vq(codes, (shape.vq.grid_size, shape.vq.grid_size))
    return counter.get_total_flops()


def uvit_flops(shape: FlowShape) -> float:
    """Of the encoder, the decoder and the layers that join them to the text model, for one row in one step."""
    with torch.device("meta"):
        network, t = FlowNetwork(shape, shape.latent_size), torch.zeros(1)
        z = torch.zeros(1, shape.latent_channels, shape.latent_size, shape.latent_size)
        with FlopCounterMode(display=False) as counter:
            features, t_emb = network.vision_gen_enc_model(z, t)
            image = network.vision_gen_enc_aligner(features.flatten(2).transpose(1, 2))
            image = network.vision_gen_dec_aligner(image)
            grid = image.unflatten(1, (network.grid_size, network.grid_size)).permute(0, 3, 1, 2)
            network.vision_gen_dec_model(grid, features, t_emb)
    return counter.get_total_flops()


def matrix_weights(llama: LlamaShape) -> int:
    """Numbers in the matrices of all layers."""
    heads = (2 * llama.num_heads + 2 * llama.num_kv_heads) * llama.head_dim
    return llama.num_layers * llama.hidden_size * (heads + 3 * llama.intermediate_size)


def _attention_flops(llama: LlamaShape) -> int:
    """Of one query token at one key, over all layers: the score and the weighted sum."""
    return 4 * llama.num_layers * llama.num_heads * llama.head_dim


def _median_seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(9):
        started_at = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started_at)
    return statistics.median(seconds)
