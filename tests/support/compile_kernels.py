"""Compiles every kernel for GPUs without having one, with the shapes of Janus-Pro-1B and the SDXL VAE.

    python -m tests.support.compile_kernels

The launches come from the code itself, run on torch's meta device. Kernels are named whose registers do not suffice,
which keep numbers in local memory, and those that need more shared memory than the GPU has. For a process of its own:
Triton's interpreter, which the other tests run in, is switched on before Triton is imported.
"""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from actors.kernels import matmul as matmul_module
from actors.kernels.attention import FP8
from actors.kernels.group_norm import add_group_norm
from actors.kernels.jit import Kernel
from actors.kernels.matmul import matmul
from actors.llama.cache import PagedCache, PagePool
from actors.llama.packed import PackedLlama
from tests.support.random_llama import llama_shape, random_weights

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # A100, H100: capability -> the most that a program may have
TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", FP8: "fp8e4nv", torch.int32: "i32", torch.int64: "i64"}
META = torch.device("meta")
SHAPE = llama_shape(
    vocab_size=8, hidden_size=2048, intermediate_size=5632, num_layers=1, num_heads=16, num_kv_heads=16, head_dim=128
)

compiled: set[tuple[str, ...]] = set()


def main() -> None:
    for capability in SHARED_BYTES:
        for dtype in (torch.bfloat16, torch.float32):
            _compile_all(capability, dtype)
    print(f"compiled {len(compiled)} kernels")


def _compile_all(capability: int, dtype: torch.dtype) -> None:
    Kernel.__getitem__ = lambda kernel, grid: functools.partial(_compile, kernel, capability)
    matmul_module._shared_bytes = lambda device: SHARED_BYTES[capability]
    weights = {name: tensor.to(META) for name, tensor in random_weights(SHAPE, dtype).items()}
    for cache_dtype in (dtype, FP8):
        _run_llama(PackedLlama(dict(weights), SHAPE, cache_dtype=cache_dtype))
    x = torch.empty(16, 2048, dtype=dtype, device=META)
    matmul(x, x, x[0, :16])
    for num_channels in (128, 256, 512):
        _run_group_norms(torch.empty(1, num_channels, 48, 48, dtype=dtype, device=META))


def _run_llama(llama: PackedLlama) -> None:
    llama.prefill([[1, 2, 3]])
    pool = PagePool((1, 4, SHAPE.num_kv_heads, SHAPE.head_dim), dtype=llama.cache_dtype, device=META)
    cache = PagedCache(pool, num_rows=2, num_new=4, context_length=SHAPE.context_length)
    llama.decode(llama.embedding_VC[:2], torch.empty(2, dtype=torch.long, device=META), cache)


def _run_group_norms(x: torch.Tensor) -> None:
    x = x.contiguous(memory_format=torch.channels_last)
    weight = x[0, :, 0, 0]
    for bias, residual, has_silu in ((None, None, False), (weight, None, True), (weight, x, True)):
        add_group_norm(x, bias, residual, weight, weight, 32, 1e-6, has_silu)


def _compile(kernel: Kernel, capability: int, *args: Any, num_warps: int, **constants: Any) -> None:
    parameters = inspect.signature(kernel.function).parameters
    values = dict(zip(parameters, args, strict=False)) | constants
    signature = {name: _type_of(values[name], parameters[name]) for name in parameters}
    key = (kernel.function.__name__, str(capability), *signature.values(), *map(str, constants.values()))
    if key in compiled or (capability < 89 and "*fp8e4nv" in signature.values()):
        return
    constexprs = {(index,): values[name] for index, name in enumerate(parameters) if name in constants}
    pointers = [index for index, kind in enumerate(signature.values()) if kind.startswith("*")]
    aligned = {(index,): [["tt.divisibility", 16]] for index in pointers}  # as torch allocates tensors
    source = ASTSource(kernel.compiled, signature, constexprs, aligned)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
    compiled.add(key)
    name = " ".join([kernel.function.__name__, *(kind for kind in signature.values() if kind != "constexpr")])
    if num_bytes := _local_bytes(found.asm["cubin"]):
        print(f"{name} on {capability}: {num_bytes} local bytes")
    if found.metadata.shared > SHARED_BYTES[capability]:
        print(f"{name} on {capability}: {found.metadata.shared} shared bytes")


def _local_bytes(cubin: bytes) -> int:
    """Bytes of local memory of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"\b(?:STACK|LOCAL):(\d+)", usage)))


def _type_of(value: Any, parameter: inspect.Parameter) -> str:
    if parameter.annotation is not parameter.empty:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


if __name__ == "__main__":
    main()
