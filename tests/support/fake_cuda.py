"""Stand-ins for the streams and graphs of torch.cuda, on a machine without a GPU. They compute nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

GIB = 2**30


class FakeCuda:
    """`log` holds the captures and replays, and what `run` is told, each with the stream that it is on."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current, self.num_streams, self.capture_fails = FakeStream("default"), 0, False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        """Take the place of torch's functions during a test."""
        for name in NAMES:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        return self

    def run(self, name: str) -> None:
        self.log.append(f"{name} on {self.current.name}")

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

    def get_device_capability(self, device: object = None) -> tuple[int, int]:
        return 9, 0

    def mem_get_info(self) -> tuple[int, int]:
        return 70 * GIB, 80 * GIB

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device: object = None) -> None:
        pass


NAMES = [name for name in vars(FakeCuda) if name not in ("install", "run") and not name.startswith("_")]


class FakeStream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: FakeStream) -> None:
        pass

    def record_event(self) -> FakeStream:
        return self

    def query(self) -> bool:
        return True


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def replay(self) -> None:
        self.cuda.run("replay")
