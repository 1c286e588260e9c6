"""An actor's process: which GPUs it sees, and which errors mean that its GPU has failed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.errors import EngineFailedError
from tests.support.toy_job import make_job
from workflows.dispatch.actor import DeviceLostError, EngineActor
from workflows.dispatch.part_actors import PartActor
from workflows.job import Workers


@pytest.fixture(autouse=True)
def visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor sets this variable in its process, which is the tests' own here: it is restored after each test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")


@pytest.mark.parametrize(("num_gpus", "visible"), [(0, ""), (1, "3")])
@pytest.mark.parametrize("kind", [EngineActor, PartActor])
def test_an_actor_sees_a_gpu_only_if_it_asked_for_one(kind: type, num_gpus: int, visible: str, tmp_path: Path) -> None:
    """Ray leaves every GPU visible to an actor that asks for none."""
    if kind is EngineActor:
        workers = Workers(gpus_per_actor=num_gpus)
        EngineActor(make_job(tmp_path / "prompts.parquet", tmp_path / "out", workers=workers), None)
    else:
        PartActor(str, str.__add__, num_gpus=num_gpus)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("AcceleratorError: CUDA error: an illegal memory access was encountered", DeviceLostError),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", DeviceLostError),
        ("RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered", DeviceLostError),
        ("RuntimeError: The size of tensor a (3) must match the size of tensor b (4)", EngineFailedError),
    ],
)
def test_an_error_of_cuda_in_any_library_means_that_the_gpu_is_lost(
    message: str, expected: type[Exception], tmp_path: Path
) -> None:
    """Otherwise each row would be rendered alone on the same GPU, where all of them fail and are rejected."""

    def render(requests: object) -> Iterator[list]:
        raise EngineFailedError(message)
        yield

    actor = EngineActor(make_job(tmp_path / "prompts.parquet", tmp_path / "out"), None)
    actor._renderer = SimpleNamespace(render=render)
    with pytest.raises(RuntimeError) as failure:
        list(actor.render([]))
    assert type(failure.value) is expected
