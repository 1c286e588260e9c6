"""Work on a GPU as CUDA graphs: captured on its first run, replayed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class GraphPool:
    """The graphs of one engine's stage, by key. They share memory: nothing in it may outlive a replay.

    The work must read and write tensors that stay where they are, and do the same when it runs twice.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # one for all: libraries keep a workspace for each stream
        self.clear()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Replay the graph of `key`, which is captured from `work` first where there is none."""
        if key not in self._graphs:
            try:
                self._graphs[key] = self._capture(work)
            except Exception:
                self.clear()  # a graph that is freed frees the stream's workspaces, which the others use
                raise
        self._graphs[key].replay()

    def clear(self) -> None:
        """Free all graphs. The next ones get new memory: torch refuses an unused pool that still holds a tensor."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """`work` runs once before, so that libraries and kernels are set up outside of the capture."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(current),  # a capture that fails leaves its own stream as the current one
            torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph
