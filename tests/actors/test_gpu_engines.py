"""Engines as a GPU builds and runs them, on a machine without one: tensors have no numbers, kernels are not launched.

Torch raises where such a tensor meets one of the CPU, as it does for a GPU's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.checkpoint.open import Checkpoint
from actors.janus import engine as janus_module
from actors.janus.engine import JanusEngine
from actors.janus.network import tensor_shapes as janus_tensor_shapes
from actors.janusflow import decoder as flow_decoder
from actors.janusflow import engine as flow_module
from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.network import tensor_shapes as flow_tensor_shapes
from actors.kernels.jit import Kernel
from benchmarks.gpu.stage import different_prompts, requests
from benchmarks.random_models import (
    SMALL_WIDTHS,
    flow_config,
    janus_config,
    recipe,
    write_checkpoint,
    write_vae,
)
from tests.support.fake_cuda import FakeCuda

META = torch.device("meta")


class Device(str):
    """The device of tensors without numbers, under the name of a GPU."""

    type = "cuda"


@pytest.fixture(scope="module")
def flow_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint and its VAE. diffusers is imported here, which needs torch's own streams."""
    config = flow_config(num_layers=2, hidden_size=256, channels=64, latent_size=8)
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("models") / "flow", config)
    return checkpoint, write_vae(checkpoint, SMALL_WIDTHS)


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    for module in (janus_module, flow_module):
        monkeypatch.setattr(module, "find_device", lambda: (Device("meta"), "a GPU"))
    monkeypatch.setattr(Kernel, "__getitem__", lambda kernel, grid: functools.partial(_check, kernel))
    fake = FakeCuda().install(monkeypatch)
    with torch.inference_mode():
        yield fake


def _check(kernel: Kernel, *args: Any, **_: Any) -> None:
    assert all(arg.device == META for arg in args if isinstance(arg, torch.Tensor)), kernel.function.__name__


def empty_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(size, dtype=torch.bfloat16, device=META) for name, size in shapes.items()}


@pytest.mark.parametrize(("kv_cache", "batch_size"), [(None, 192), ("fp8", 256)])
def test_janus_decodes_the_images_of_a_batch_on_a_stream_of_their_own(
    kv_cache: str | None, batch_size: int, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = janus_config(num_layers=2, hidden_size=256, grid_size=3, vq_widths=[1, 1])
    checkpoint = write_checkpoint(tmp_path / "janus", config)
    settings = dataclasses.replace(recipe(checkpoint, "bfloat16"), kv_cache=kv_cache)
    engine = JanusEngine(settings, checkpoint, weights=empty_weights(janus_tensor_shapes(checkpoint.shape)))
    monkeypatch.setattr(janus_module, "read_answers", lambda tokens, decoded: [decoded.pixels] * len(tokens.requests))
    assert engine.default_batch_size == batch_size
    engine.predict("a cat")
    cuda.log.clear()

    batches = [requests(different_prompts(num), cfg_weight=5.0, temperature=1.0) for num in (3, 2)]
    answers = list(engine.stream(batches))

    assert [len(batch) for batch in answers] == [3, 2]
    assert [tuple(batch[0].shape) for batch in answers] == [(3, 6, 6, 3), (2, 6, 6, 3)]
    assert cuda.log == [f"replay on {engine._decode_stream.name}"] * 5
    assert engine.seconds_per_batch(batches[0][0]) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_janusflow_decodes_the_images_of_a_batch_on_a_stream_of_their_own(
    dtype: str, flow_models: tuple[Checkpoint, Checkpoint], cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, vae = flow_models
    monkeypatch.setattr(flow_decoder, "compute_dtype", lambda dtype, device: dtype)
    weights = {
        name: tensor.to(getattr(torch, dtype))
        for name, tensor in empty_weights(flow_tensor_shapes(checkpoint.shape)).items()
    }
    engine = JanusFlowEngine(recipe(checkpoint, dtype), checkpoint, vae, weights=weights)
    monkeypatch.setattr(engine, "_answers", lambda batch: [batch.decoded.pixels] * len(batch.requests))
    engine.predict("a cat")
    cuda.log.clear()

    fields = {"cfg_weight": 2.0, "num_inference_steps": 2, "solver": None, "temperature": None}
    answers = list(engine.stream([requests(different_prompts(num), **fields) for num in (3, 2)]))

    assert [tuple(batch[0].shape) for batch in answers] == [(3, 64, 64, 3), (2, 64, 64, 3)]
    decoded, steps = f"replay on {engine._decode_stream.name}", ["replay on default"] * 2
    assert [entry for entry in cuda.log if entry != "capture"] == (
        [*steps, *[decoded] * 3, *steps, *[decoded] * 2] if dtype == "bfloat16" else [decoded] * 5
    )
    assert engine.seconds_per_batch(requests(["a cat"], **fields)[0]) > 0
