"""Measures the effect of `model.kv_cache: fp8` on codes and images, on a CPU, with held-out prompts and the same seeds.

    python -m benchmarks.kv_cache [janus-shapes] [--prompts N]

A CPU has no fp8 cache: here keys and values are rounded as a GPU's cache rounds them, and attended to in float32.
`same` is the share of images with exactly the codes of float32, `until` the median number of codes before the first
difference. The judge of `examples/shapes` decides which images are right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from actors.kernels.attention import to_fp8
from actors.llama.attention import BagAttention
from actors.request import RenderedImage
from benchmarks.dtypes import compare
from benchmarks.planning import provenance
from examples.shapes.evaluate import load, render_images, share_right
from examples.shapes.world import Scene, held_out_pairs, held_out_singles

CFG_WEIGHT = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default="janus-shapes", help="(default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="of one shape, and of two (default: %(default)s)")
    arguments = parser.parse_args()
    num = arguments.prompts
    scenes = [*held_out_singles(7, num), *held_out_pairs(7, num)]
    exact = render(arguments.checkpoint, scenes)
    with rounded_cache():
        rounded = render(arguments.checkpoint, scenes)
    lines = ["| keys and values | same | until | one shape right | two shapes right |", "|:--|--:|--:|--:|--:|"]
    for name, images in (("float32", exact), ("fp8", rounded)):
        same, until = compare(_codes(exact), _codes(images))
        right = [share_right([image.pixels for image in images[part]], scenes[part]) for part in _halves(num)]
        lines.append(f"| {name} | {same:.1%} | {until:g} | {right[0]:.1%} | {right[1]:.1%} |")
    print(
        f"\n{provenance()}\n\n{arguments.checkpoint}, {len(exact)} images of {len(exact[0].codes)} codes each, ", end=""
    )
    print(f"cfg_weight {CFG_WEIGHT:g}\n\n" + "\n".join(lines))


def render(checkpoint: str, scenes: Sequence[Scene]) -> list[RenderedImage]:
    """One image of each scene, with an engine of its own."""
    return render_images(*load(checkpoint), scenes, CFG_WEIGHT)


@contextmanager
def rounded_cache() -> Iterator[None]:
    """A CPU's keys and values with the numbers that they have in a GPU's fp8 cache."""
    put, put_prompt = BagAttention.put, BagAttention.put_prompt
    BagAttention.put = lambda attention, kv, k, v: put(attention, kv, _rounded(k), _rounded(v))
    BagAttention.put_prompt = staticmethod(lambda cache, row, kv: put_prompt(cache, row, _rounded(kv)))
    try:
        yield
    finally:
        BagAttention.put, BagAttention.put_prompt = put, staticmethod(put_prompt)


def _rounded(x: torch.Tensor) -> torch.Tensor:
    quantized, scale = to_fp8(x)
    return quantized.float() * scale


def _codes(images: Sequence[RenderedImage]) -> dict[str, np.ndarray]:
    return {image.image_id: image.codes for image in images}


def _halves(num: int) -> tuple[slice, slice]:
    return slice(0, num), slice(num, None)


if __name__ == "__main__":
    main()
