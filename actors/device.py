"""The device an engine runs on: the first visible GPU or the CPU, its name, and what it computes in."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from actors.kernels.requirements import check_capability, check_toolchain, find_toolchain

T = TypeVar("T")

# Large tensors on a CPU on huge pages, where Linux gives them on request: torch reads this at its first allocation.
# Weights and caches are read whole at every step, and looking up small pages takes up to a tenth of the time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# No AMX for products in bfloat16 on a CPU: its kernels add up in another order for other numbers of rows. oneDNN reads
# this at its first product.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # by their names in a job file


def find_device() -> tuple[torch.device, str]:
    """The device and the name that the manifest gives it: the GPU's, or the CPU's instruction set (`cpu AVX2`).

    Raises InputError for a GPU that is too old, or on a machine that cannot compile kernels.
    """
    if torch.cuda.is_available():
        check_capability(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
        check_toolchain(find_toolchain())
        torch.backends.cudnn.allow_tf32 = False  # the default for convolutions: float32 of 10 bits
        torch.backends.cudnn.deterministic = True  # no convolution whose sums come in another order each time
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), f"cpu {torch.backends.cpu.get_cpu_capability()}"


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on `device`. On a GPU a copy from the CPU is only enqueued: Python does not wait for the work ahead."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def on_stream(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager[object]:
    """Work in it is enqueued on this stream of a GPU; None: where it would be anyway."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def timed(device: torch.device, work: Callable[[], T]) -> tuple[T, float]:
    """What the work returns, and the seconds that it took on the device."""
    start = time.monotonic()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.monotonic() - start


def to_compute_dtype(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as their device computes with them, see `compute_dtype`; they replace those in `weights`."""
    for name, tensor in weights.items():
        weights[name] = tensor.to(compute_dtype(tensor.dtype, tensor.device))
    return weights


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What weights of `dtype` are computed in.

    A CPU without instructions for a 16-bit format takes about 100 times as long in it as in float32 (measured on AVX2),
    and oneDNN refuses it. There the rounded weights are computed with in float32.
    """
    if device.type == "cpu" and not _has_instructions(dtype):
        return torch.float32
    return dtype


def _has_instructions(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True
