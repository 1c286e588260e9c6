"""Both ceilings, and each kernel against its own: attention by its bytes, products against cuBLAS at a layer's shapes.

cuBLAS runs with all rows, which gives a row other bits when their number changes, and in blocks of a fixed number of
rows: the other way to keep a row's bits, if they do not depend on its place in the block.

Launches are timed as one CUDA graph, so that Python takes no part. Products take turns with several copies of their
weights, together larger than a GPU's cache: in a decode step every weight comes from memory.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from actors.device import DTYPES
from actors.kernels.attention import FP8, PAGE, attend
from actors.kernels.cuda_graph import GraphPool
from actors.kernels.matmul import matmul
from actors.llama.cache import PagePool, pages_of
from benchmarks.gpu.row import Row
from benchmarks.gpu.stage import COPY, PRODUCT, Stage

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

CACHE_BYTES = 256 * 2**20  # more than the cache of any GPU
BLOCK_ROWS = 128
ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A text model's: heads of `head_dim` channels, and a layer's products as (inputs, outputs)."""

    num_heads: int
    head_dim: int
    products: Mapping[str, tuple[int, int]]


def _shape(hidden_size: int, intermediate_size: int, head_dim: int) -> Shape:
    return Shape(
        num_heads=hidden_size // head_dim,
        head_dim=head_dim,
        products={
            "qkv": (hidden_size, 3 * hidden_size),
            "out": (hidden_size, hidden_size),
            "gate/up": (hidden_size, 2 * intermediate_size),
            "down": (intermediate_size, hidden_size),
        },
    )


SHAPES = {"1B": _shape(2048, 5632, 128), "7B": _shape(4096, 11008, 128)}
TINY_SHAPES = {"tiny": _shape(64, 128, 32)}


def ceilings(stage: Stage) -> Iterator[Row]:
    """What the limits of all other rows are computed from."""
    yield Row(name=COPY, value=stage.ceilings.bytes_per_s / 1e9, unit="GB/s", note=_machine(stage))
    yield Row(name=PRODUCT, value=stage.ceilings.flops_per_s / 1e12, unit="TFLOP/s", note=stage.dtype)


@torch.inference_mode()
def kernels(stage: Stage) -> Iterator[Row]:
    """Attention with both kinds of cache, then the products of a layer."""
    shapes = stage.pick(SHAPES, TINY_SHAPES)
    for name, shape in shapes.items():
        num_rows = stage.pick({"1B": 384, "7B": 192}, {"tiny": 2})[name]
        yield _attention(stage, name, shape, num_rows, DTYPES[stage.dtype])
        yield _attention(stage, name, shape, 2 * num_rows, FP8)
    for name, shape in shapes.items():
        for num_rows in stage.pick((32, 256, 384, 512), (2, 3)):
            yield from _layer(stage, name, shape, num_rows)


def _machine(stage: Stage) -> str:
    """The device, the commit where git knows one, and the versions."""
    device = torch.cuda.get_device_name() if stage.device.type == "cuda" else "a CPU"
    parts = [device]
    for name in ("torch", "triton", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # torch may bring its own Triton
            parts.append(f"{name} {importlib.metadata.version(name)}")
    if torch.version.cuda:
        parts.append(f"CUDA {torch.version.cuda}")
    if shutil.which("git"):
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
        parts += [f"commit {found.stdout.strip()}"] if found.stdout else []
    return ", ".join(parts)


def _attention(stage: Stage, name: str, shape: Shape, num_rows: int, cache_dtype: torch.dtype) -> Row:
    """One layer's attention with rows in the middle of an image."""
    position, dtype = stage.pick(320, 20), DTYPES[stage.dtype]
    num_heads, head_dim, pages = shape.num_heads, shape.head_dim, pages_of(position + 1)
    size = (1, num_rows * pages, num_heads, head_dim)
    pool = PagePool(size, dtype=cache_dtype, device=stage.device)
    pool.kv.view(torch.uint8).zero_()
    if pool.scales is not None:
        pool.scales.fill_(1.0)
    scales = None if pool.scales is None else pool.scales[0]
    table = torch.arange(num_rows * pages, dtype=torch.int32, device=stage.device).view(num_rows, pages)
    qkv = torch.randn(num_rows, 3 * num_heads * head_dim, device=stage.device).to(dtype)
    positions = torch.full((num_rows,), position, device=stage.device)
    cos, sin = (torch.ones(position + 1, head_dim, device=stage.device) for _ in range(2))

    seconds = _seconds_per_launch(stage, lambda: attend(qkv, pool.kv[0], scales, table, positions, cos, sin), 10)
    bytes_of_slot = 2 * num_heads * (head_dim * cache_dtype.itemsize + (4 if scales is not None else 0))
    num_bytes = num_rows * position * bytes_of_slot
    cache = str(cache_dtype).removeprefix("torch.")
    return Row(
        name=f"attention {name}, {num_rows} rows at position {position}, {cache}",
        value=num_bytes / seconds / 1e9,
        unit="GB/s",
        limit=stage.ceilings.bytes_per_s / 1e9,
        note=f"{seconds * 1e6:.0f} us, pages of {PAGE}",
    )


def _layer(stage: Stage, name: str, shape: Shape, num_rows: int) -> Iterator[Row]:
    """The four products of a layer, a row for each contestant."""
    dtype, limit = DTYPES[stage.dtype], 0.0
    seconds: dict[str, dict[str, float]] = {who: {} for who in PRODUCTS}
    differing: dict[str, list[str]] = {who: [] for who in PRODUCTS}
    for product, (num_inputs, num_outputs) in shape.products.items():
        num_copies = stage.pick(max(1, CACHE_BYTES // (num_inputs * num_outputs * dtype.itemsize)), 1)
        size = (num_copies, num_outputs, num_inputs)
        weights = (torch.randn(size, device=stage.device) * num_inputs**-0.5).to(dtype)
        x = torch.randn(num_rows, num_inputs, device=stage.device).to(dtype)
        for who, multiply in PRODUCTS.items():
            seconds[who][product] = _seconds_per_weight(stage, multiply, x, weights)
            if not _is_invariant(multiply, x, weights[0]):
                differing[who].append(product)
        num_bytes = weights[0].nbytes + x.nbytes + num_rows * num_outputs * dtype.itemsize
        limit += stage.ceilings.seconds(num_bytes, 2 * num_rows * num_inputs * num_outputs)
    library = seconds["library"]
    for who, ours in seconds.items():
        each = ", ".join(f"{product} {ours[product] / library[product]:.2f}" for product in ours)
        note = f"{sum(ours.values()) / sum(library.values()):.2f} times the library: {each}"
        if differing[who]:
            note += f"; bits depend on number or place of rows: {', '.join(differing[who])}"
        yield Row(
            name=f"products of a layer of {name}, {num_rows} rows, {who}",
            value=sum(ours.values()) * 1e6,
            unit="us",
            limit=limit * 1e6,
            note=note,
            is_ok=who != "matmul" or not differing[who],
        )


def _in_blocks(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The library's product, of BLOCK_ROWS rows a call."""
    padded = F.pad(x, (0, 0, 0, -len(x) % BLOCK_ROWS))
    blocks = [F.linear(block, weight) for block in padded.split(BLOCK_ROWS)]
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[: len(x)]


def _is_invariant(multiply: Product, x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the last two rows have the same bits among all rows, and alone in the other order."""
    pair = x[-2:].flip(0).contiguous()
    return torch.equal(multiply(x, weight)[-2:].flip(0), multiply(pair, weight))


PRODUCTS: dict[str, Product] = {"matmul": matmul, "library": F.linear, f"library by {BLOCK_ROWS} rows": _in_blocks}


def _seconds_per_weight(stage: Stage, product: Product, x: torch.Tensor, weights: torch.Tensor) -> float:
    def work() -> None:
        for weight in weights:
            product(x, weight)

    return _seconds_per_launch(stage, work, stage.pick(3, 1)) / len(weights)


def _seconds_per_launch(stage: Stage, launch: Callable[[], object], num_launches: int) -> float:
    """The fastest of ROUNDS rounds."""
    num_launches = stage.pick(num_launches, 1)

    def work() -> None:
        for _ in range(num_launches):
            launch()

    if stage.device.type == "cuda":
        graphs = GraphPool()
        seconds = [stage.seconds(lambda: graphs.run("work", work)) for _ in range(1 + ROUNDS)]
    else:
        started_at = time.perf_counter()
        work()
        seconds = [0.0, time.perf_counter() - started_at]
    return min(seconds[1:]) / num_launches
