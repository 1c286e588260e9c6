"""What runs on a GPU, without one: the same code on torch's device without numbers, meta.

Its tensors have a shape and a type, and raise where they meet a tensor of the CPU or where Python asks for a number. On
a GPU the first is an error, and the second makes the loop wait for the device and cannot be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actors.janus.config import read_shape as read_janus_shape
from actors.janus.decode_loop import DecodeLoop
from actors.janus.network import CodeModel, PromptState, build_code_model
from actors.janus.network import tensor_shapes as janus_tensor_shapes
from actors.janus.sampler import CodeSampler
from actors.janusflow.config import read_shape as read_flow_shape
from actors.janusflow.network import build_network
from actors.janusflow.network import tensor_shapes as flow_tensor_shapes
from actors.llama import fp8
from actors.llama.attention import ProductAttention
from actors.llama.model import num_slots
from benchmarks.random_models import flow_config, janus_config
from tests.support.janus_engine import request

DEVICE = torch.device("meta")
PROMPT_LENGTHS = (9, 30)
GRID_SIZE = 9  # enough codes that the cache is read one segment far, then two
NUM_CODES = GRID_SIZE**2


class OnDeviceOnly(TorchDispatchMode):
    """Raises where an operation has a tensor of another device among its arguments, be it an index or a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device == DEVICE for tensor in tensors), f"{func} has a tensor of the CPU"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def inference(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fp8, "_check_gpu", lambda device: None)
    with torch.no_grad():  # inference mode would show an operation that is made of others as one
        yield


def empty_weights(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.empty(size, dtype=dtype, device=DEVICE) for name, size in shapes.items()}


def janus_model(*, dtype: torch.dtype = torch.bfloat16, num_kv_heads: int = 4, is_fp8: bool = False) -> CodeModel:
    config = janus_config(num_layers=2, hidden_size=256, grid_size=GRID_SIZE, vq_widths=[1])
    config["language_config"]["num_key_value_heads"] = num_kv_heads
    shape = read_janus_shape(config)
    return build_code_model(empty_weights(janus_tensor_shapes(shape), dtype), shape, is_fp8=is_fp8)


def loaded_loop(model: CodeModel) -> DecodeLoop:
    """Three images, one of them without guidance, in a batch of four images and eight rows."""
    sampler, cache = (
        CodeSampler(4, NUM_CODES, DEVICE),
        model.llama.new_cache(8, num_slots(max(PROMPT_LENGTHS) + NUM_CODES)),
    )
    loop = DecodeLoop(model, sampler, cache, num_images=4, prompt_room=max(PROMPT_LENGTHS))
    states = []
    for num_tokens in PROMPT_LENGTHS:
        hidden_TC, kv = model.llama.prefill(torch.empty_like(model.code_embedding_VC[:num_tokens]))
        states.append(PromptState(hidden_C=hidden_TC[-1], kv=kv))
    sampler.load([request("a cat", seed=seed, temperature=1.0) for seed in range(3)])
    loop.load([states[row % 2] for row in range(5)], [0, 1, 2, 0, 1], [5.0, 2.0, 1.0])
    return loop


@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": torch.float32}, {"num_kv_heads": 2}, {"is_fp8": True}],
    ids=["bfloat16", "float32", "groups", "fp8"],
)
def test_the_decode_loop_stays_on_its_device_and_asks_for_no_number(settings: dict[str, Any]) -> None:
    model = janus_model(**settings)
    assert model.llama.attention is ProductAttention
    loop = loaded_loop(model)
    with OnDeviceOnly():
        codes_BN = loop.run(NUM_CODES, lambda step: step < NUM_CODES - 5)
    assert codes_BN.device == DEVICE
    assert codes_BN.shape == (4, NUM_CODES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_the_flow_stays_on_its_device_and_asks_for_no_number(dtype: torch.dtype) -> None:
    config = flow_config(num_layers=2, hidden_size=256, channels=64, latent_size=24)
    shape = read_flow_shape(config)
    network = build_network(empty_weights(flow_tensor_shapes(shape), dtype), shape, shape.latent_size)
    prompts = [network.read_prompt(range(num_tokens)) for num_tokens in PROMPT_LENGTHS]
    z_RCHW = torch.empty(2, 4, 24, 24)  # the solver's state comes from the CPU

    v_RCHW = network(z_RCHW, torch.zeros(2, dtype=torch.float64), prompts)

    assert v_RCHW.device == DEVICE
    assert v_RCHW.dtype == torch.float32
    assert v_RCHW.shape == z_RCHW.shape


def test_what_the_other_tests_rely_on() -> None:
    """The faults are noticed here, as they would not be on a CPU."""
    here, there = torch.zeros(3), torch.zeros(3, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"device meta .* device cpu"):
        here + there
    with pytest.raises(RuntimeError, match="meta tensors"):
        there.max().item()
    with OnDeviceOnly(), pytest.raises(AssertionError, match="has a tensor of the CPU"):
        there[torch.arange(2)]
