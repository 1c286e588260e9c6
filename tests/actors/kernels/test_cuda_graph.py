"""Work that is captured on its first run and replayed afterwards. A fake records the CUDA calls of torch."""

from __future__ import annotations

import pytest

from actors.kernels.cuda_graph import GraphPool
from tests.support.fake_cuda import FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda().install(monkeypatch)


def test_work_runs_once_before_its_capture_and_is_replayed_on_the_current_stream(cuda: FakeCuda) -> None:
    graphs = GraphPool()
    graphs.run("key", lambda: cuda.run("work"))
    assert cuda.log == ["work on side 1", "capture", "work on side 1", "replay on default"]
    cuda.log.clear()
    with cuda.stream(cuda.Stream()):
        graphs.run("key", lambda: cuda.run("work"))
    assert cuda.log == ["replay on side 2"]


def test_a_failed_capture_leaves_the_current_stream_as_it_was_and_frees_all_graphs(cuda: FakeCuda) -> None:
    graphs = GraphPool()
    graphs.run("good", lambda: None)
    cuda.capture_fails = True
    with pytest.raises(RuntimeError, match="during capture"):
        graphs.run("bad", lambda: None)
    assert cuda.current.name == "default"
    cuda.capture_fails = False
    cuda.log.clear()
    graphs.run("good", lambda: None)
    assert cuda.log == ["capture", "replay on default"]
