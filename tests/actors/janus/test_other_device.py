"""The code of a GPU without one, on torch's device without numbers, meta; Triton kernels are counted, not launched.

Its tensors have a shape and a type, and raise where they meet a tensor of the CPU or where Python asks for a number. On
a GPU the first is an error, and the second makes the loop wait for the device and cannot be captured in a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actors.janus.config import read_shape as read_janus_shape
from actors.janus.decode_loop import DecodeLoop
from actors.janus.network import CodeModel, build_code_model
from actors.janus.network import tensor_shapes as janus_tensor_shapes
from actors.janus.sampler import CodeSampler
from actors.janusflow.config import read_shape as read_flow_shape
from actors.janusflow.network import build_network
from actors.janusflow.network import tensor_shapes as flow_tensor_shapes
from actors.kernels.attention import FP8
from actors.kernels.jit import Kernel
from actors.llama.cache import PagedCache, PagePool
from actors.llama.packed import PackedLlama
from actors.llama.packing import pack
from benchmarks.random_models import flow_config, janus_config
from tests.support.janus_engine import request

DEVICE = torch.device("meta")
PROMPT_LENGTHS = (9, 30)
GRID_SIZE = 3
NUM_CODES = GRID_SIZE**2


class OnDeviceOnly(TorchDispatchMode):
    """Raises where an operation has a tensor of another device among its arguments, be it an index or a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device == DEVICE for tensor in tensors), f"{func} has a tensor of the CPU"
        return func(*args, **(kwargs or {}))


class Captured:
    """In place of CUDA graphs: what they capture runs where a tensor of the CPU is an error."""

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        with OnDeviceOnly():
            work()


class LaunchCounter(TorchDispatchMode):
    """Counts the operations that launch a kernel on a GPU: all but views and the allocation of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.num_launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.num_launches += not (func.is_view or "empty" in func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.no_grad():  # inference mode would show an operation that is made of others as one
        yield


@pytest.fixture(autouse=True)
def triton_launches(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    """The Triton kernels launched so far. Each checks that its tensors are on the device, and does nothing."""
    launched: list[Kernel] = []

    def launch(kernel: Kernel, *args: Any, **_: Any) -> None:
        assert all(arg.device == DEVICE for arg in args if isinstance(arg, torch.Tensor))
        launched.append(kernel)

    monkeypatch.setattr(Kernel, "__getitem__", lambda kernel, grid: functools.partial(launch, kernel))
    return launched


def empty_weights(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.empty(size, dtype=dtype, device=DEVICE) for name, size in shapes.items()}


def janus_model(*, dtype: torch.dtype = torch.bfloat16, num_kv_heads: int = 4, num_layers: int = 2) -> CodeModel:
    config = janus_config(num_layers=num_layers, hidden_size=256, grid_size=GRID_SIZE, vq_widths=[1])
    config["language_config"]["num_key_value_heads"] = num_kv_heads
    shape = read_janus_shape(config)
    return build_code_model(empty_weights(janus_tensor_shapes(shape), dtype), shape, is_packed=True)


def new_cache(llama: PackedLlama, cache_dtype: torch.dtype) -> PagedCache:
    """For eight rows."""
    shape = llama.shape
    pool = PagePool((shape.num_layers, 8, shape.num_kv_heads, shape.head_dim), dtype=cache_dtype, device=DEVICE)
    return PagedCache(pool, num_rows=8, num_new=NUM_CODES, context_length=shape.context_length)


def loaded_loop(model: CodeModel, cache_dtype: torch.dtype) -> DecodeLoop:
    """Three images, one of them without guidance, in a batch of four images and eight rows."""
    sampler = CodeSampler(4, NUM_CODES, DEVICE)
    loop = DecodeLoop(model, sampler, new_cache(model.llama, cache_dtype), num_images=4)
    states = model.llama.prefill([range(num_tokens) for num_tokens in PROMPT_LENGTHS])
    sampler.load([request("a cat", seed=seed, temperature=1.0) for seed in range(3)])
    loop.load([states[row % 2] for row in range(5)], [0, 1, 2, 0, 1], [5.0, 2.0, 1.0])
    return loop


@pytest.mark.parametrize(
    ("settings", "cache_dtype"),
    [
        ({}, torch.bfloat16),
        ({"dtype": torch.float32}, torch.float32),
        ({"num_kv_heads": 2}, torch.bfloat16),
        ({}, FP8),
    ],
    ids=["bfloat16", "float32", "groups", "fp8 cache"],
)
def test_the_decode_loop_stays_on_its_device_and_asks_for_no_number(
    settings: dict[str, Any], cache_dtype: torch.dtype
) -> None:
    loop = loaded_loop(janus_model(**settings), cache_dtype)
    with OnDeviceOnly():
        codes_BN = loop.run(NUM_CODES, lambda step: step < NUM_CODES - 5)
    assert codes_BN.device == DEVICE
    assert codes_BN.shape == (4, NUM_CODES)


def test_a_decode_step_launches_eight_kernels_for_a_layer(triton_launches: list[Kernel]) -> None:
    def count(num_layers: int) -> int:
        model = janus_model(num_layers=num_layers)
        cache, position_R = new_cache(model.llama, torch.bfloat16), torch.empty(8, dtype=torch.long, device=DEVICE)
        triton_launches.clear()
        with LaunchCounter() as counter:
            model.llama.decode(model.code_embedding_VC[:8], position_R, cache)
        return counter.num_launches + len(triton_launches)

    assert count(3) - count(2) == 8
    assert count(2) == 2 * 8 + 1  # and the last norm


def test_a_packed_step_launches_nine_kernels_for_a_layer(triton_launches: list[Kernel]) -> None:
    """One more than a decode step: the rotation is not part of the library's attention."""

    def count(num_layers: int) -> int:
        llama = janus_model(num_layers=num_layers).llama
        packing, kv = pack([3, 9], [5, 5], [3, 9], DEVICE), llama.new_slots(22)
        triton_launches.clear()
        with LaunchCounter() as counter:
            llama.run(llama.embedding_VC[:10], packing, kv)
        return counter.num_launches + len(triton_launches)

    assert count(3) - count(2) == 9
    assert count(2) == 2 * 9 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_the_flow_stays_on_its_device_and_asks_for_no_number(dtype: torch.dtype) -> None:
    config = flow_config(num_layers=2, hidden_size=256, channels=64, latent_size=24)
    shape = read_flow_shape(config)
    weights = empty_weights(flow_tensor_shapes(shape), dtype)
    network = build_network(weights, shape, shape.latent_size, is_packed=True, graphs=Captured())
    prompts = network.read_prompts([range(num_tokens) for num_tokens in PROMPT_LENGTHS])
    z_RCHW = torch.empty(2, 4, 24, 24)  # the solver's state comes from the CPU

    v_RCHW = network(z_RCHW, torch.zeros(2, dtype=torch.float64), prompts)

    assert v_RCHW.device == DEVICE
    assert v_RCHW.dtype == torch.float32
    assert v_RCHW.shape == z_RCHW.shape


def test_the_meta_device_raises_for_what_a_gpu_cannot_do() -> None:
    """The faults are noticed here, as they would not be on a CPU."""
    here, there = torch.zeros(3), torch.zeros(3, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"device meta .* device cpu"):
        here + there
    with pytest.raises(RuntimeError, match="meta tensors"):
        there.max().item()
    with OnDeviceOnly(), pytest.raises(AssertionError, match="has a tensor of the CPU"):
        there[torch.arange(2)]
