"""Engines as a GPU builds and runs them, on a CPU: its kernels are their references, its graphs are replayed.

What runs is all that the engines do on a GPU between the kernels. A product is summed in float64, so that a row's bits
do not depend on the number of rows, as the kernel's do not.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

from actors.janus import engine as janus_module
from actors.janus.engine import JanusEngine
from actors.janusflow import engine as flow_module
from actors.janusflow import packed as flow_packed
from actors.janusflow.engine import JanusFlowEngine
from actors.kernels import image_decoder
from actors.kernels.attention import attend_reference
from actors.kernels.cuda_graph import GraphPool
from actors.kernels.group_norm import add_group_norm_reference
from actors.kernels.norm import add_norm_reference
from actors.kernels.rotary import rotate_and_store_reference
from actors.kernels.silu import silu_mul_reference
from actors.llama import linear, packed
from actors.llama.packing import Packing, _attend_one_by_one
from tests.support import flow_engine, janus_engine
from tests.support.fake_cuda import FakeCuda


class Device(str):
    """A device under the name of a GPU."""

    type = "cuda"


def install(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A GPU for the engines of a test."""
    cuda = FakeCuda().install(monkeypatch)
    for module in (janus_module, flow_module):
        monkeypatch.setattr(module, "find_device", lambda: (Device("cpu"), "a GPU"))
    for module, name, kernel in (
        (packed, "attend", attend_reference),
        (packed, "attend_packed", _attend_packed),
        (packed, "matmul", _matmul),
        (packed, "add_norm", add_norm_reference),
        (packed, "rotate_and_store", rotate_and_store_reference),
        (packed, "silu_mul", silu_mul_reference),
        (flow_packed, "add_norm", add_norm_reference),
        (image_decoder, "add_group_norm", add_group_norm_reference),
    ):
        monkeypatch.setattr(module, name, functools.partial(cuda.launch, kernel))
    monkeypatch.setattr(linear, "_can_pack", lambda weight_OI: False)
    return cuda


def janus(**settings: Any) -> JanusEngine:
    """The tiny checkpoint's engine."""
    engine = janus_engine.engine(**settings)
    engine.loops._graphs = GraphPool()
    return engine


def janusflow(**settings: Any) -> JanusFlowEngine:
    """The tiny checkpoint's engine, with graphs although it is in float32."""
    engine = flow_engine.engine(**settings)
    engine.network.packed.graphs = GraphPool()
    return engine


def _matmul(x_RI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    return (x_RI.double() @ weight_OI.double().T).to(x_RI.dtype)


def _attend_packed(q_THD: torch.Tensor, kv: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Where the sequences are is read from the tensors, as FlashAttention does."""
    tokens, slots = (tuple(ends.diff().tolist()) for ends in (packing.token_ends, packing.slot_ends))
    keys, values = kv.repeat_interleave(q_THD.shape[1] // kv.shape[2], dim=2)
    where = dataclasses.replace(packing, num_tokens=tokens, num_slots=slots)
    return _attend_one_by_one(q_THD, keys, values, where)
