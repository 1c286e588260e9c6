"""An actor's process sees only the GPUs that it asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.toy_job import make_job
from workflows.dispatch.actor import EngineActor
from workflows.job import Workers


@pytest.mark.parametrize(("gpus_per_actor", "visible"), [(0, ""), (1, "3")])
def test_an_actor_sees_a_gpu_only_if_it_asked_for_one(
    gpus_per_actor: int, visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray leaves every GPU visible to an actor that asks for none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    job = make_job(tmp_path / "prompts.parquet", tmp_path / "out", workers=Workers(gpus_per_actor=gpus_per_actor))
    EngineActor(job, None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
