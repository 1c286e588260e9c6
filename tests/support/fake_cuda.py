"""Stand-ins for the streams and graphs of torch.cuda, on a machine without a GPU.

What is enqueued on a stream runs at once. A graph keeps the operations of its capture and the tensors that they read
and wrote. A replay runs them again on the same tensors, without the Python in between, and spoils what other graphs of
its pool computed: they share memory.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30


class FakeCuda:
    """`log` holds the captures and replays, and what `run` is told, each with the stream that it is on.

    `free_bytes` are those of the GPU's memory. The launch or replay number `launches_left` finds no memory left.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current, self.num_streams, self.capture_fails = FakeStream("default"), 0, False
        self.free_bytes, self.launches_left = 70 * GIB, -1
        self.recorder: Recorder | None = None
        self.graphs_of_pool: defaultdict[object, weakref.WeakSet[FakeGraph]] = defaultdict(weakref.WeakSet)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        """Take the place of torch's functions during a test."""
        for name in NAMES:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        return self

    def run(self, name: str) -> None:
        self.log.append(f"{name} on {self.current.name}")

    def launch(self, kernel: Callable[..., Any], *args: Any) -> Any:
        """Run a kernel, which a capture keeps as one operation."""
        self.count_launch()
        return kernel(*args) if self.recorder is None else self.recorder.run(kernel, args)

    def count_launch(self) -> None:
        self.launches_left -= 1
        if self.launches_left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")

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

    def graph_pool_handle(self) -> object:
        return object()

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph(self)

    @contextmanager
    def graph(self, graph: FakeGraph, *, pool: object, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        """As torch does: where the end of a capture fails, its stream stays the current one.

        Memory of which all graphs are freed is refused, as torch refuses it while a tensor is in it.
        """
        if pool in self.graphs_of_pool and not self.graphs_of_pool[pool]:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        before, self.current = self.current, stream
        self.log.append("capture")
        graph.recorder = self.recorder = Recorder()
        try:
            with self.recorder:
                yield
        finally:
            self.recorder = None
        if self.capture_fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.current = before
        graph.others = self.graphs_of_pool[pool]
        graph.others.add(graph)

    def get_device_capability(self, device: object = None) -> tuple[int, int]:
        return 9, 0

    def mem_get_info(self) -> tuple[int, int]:
        return self.free_bytes, 80 * GIB

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device: object = None) -> None:
        pass


OWN_NAMES = ("install", "run", "launch", "count_launch")
NAMES = [name for name in vars(FakeCuda) if name not in OWN_NAMES and not name.startswith("_")]


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
    """`others` are the graphs of its pool."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.recorder, self.others = Recorder(), weakref.WeakSet()

    def replay(self) -> None:
        self.cuda.count_launch()
        self.cuda.run("replay")
        for other in self.others:
            if other is not self:
                other.recorder.spoil()
        self.recorder.replay()


class Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], tuple, dict[str, Any], Any]] = []
        self.allocated: list[torch.Tensor] = []
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self._is_paused:
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return self.run(func, args, kwargs)

    def run(self, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operation, which may be a function of several, and keep it as one."""
        self._is_paused = True
        try:
            result = function(*args, **(kwargs or {}))
        finally:
            self._is_paused = False
        self.operations.append((function, args, kwargs or {}, result))
        known = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        self.allocated += [tensor for tensor in _tensors(result) if _memory(tensor) not in known]
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def spoil(self) -> None:
        for tensor in self.allocated:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 1)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
