"""Work that is captured on its first run and replayed afterwards; records stand in for the CUDA calls of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from actors.kernels import cuda_graph
from actors.kernels.cuda_graph import GraphPool


class FakeCuda:
    """The part of torch.cuda that GraphPool calls. `log` holds what runs, and on which stream."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current, self.num_streams, self.capture_fails = FakeStream("default"), 0, False

    def Stream(self) -> FakeStream:
        self.num_streams += 1
        return FakeStream(f"side {self.num_streams}")

    def current_stream(self) -> FakeStream:
        return self.current

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def graph_pool_handle(self) -> str:
        return "pool"

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph(self)

    @contextmanager
    def graph(self, graph: FakeGraph, *, pool: str, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        """As torch does: where the end of a capture fails, its stream stays the current one."""
        before, self.current = self.current, stream
        self.log.append("capture")
        yield
        if self.capture_fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.current = before

    def run(self, name: str) -> None:
        self.log.append(f"{name} on {self.current.name}")


class FakeStream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: FakeStream) -> None:
        pass


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def replay(self) -> None:
        self.cuda.run("replay")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_graph, "torch", SimpleNamespace(cuda=fake))
    return fake


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
