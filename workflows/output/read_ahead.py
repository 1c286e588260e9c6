"""Reads many files in order, some ahead of the one that is needed, in threads: a store answers after a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from workflows.output.manifest import NUM_READERS

Name = TypeVar("Name")
Found = TypeVar("Found")


def read_ahead(names: Iterable[Name], read: Callable[[Name], Found]) -> Iterator[Found]:
    """What `read` returns for each name, in their order. At most `NUM_READERS` results wait in memory."""
    waiting = deque[Future[Found]]()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for name in names:
            if len(waiting) == NUM_READERS:
                yield waiting.popleft().result()
            waiting.append(readers.submit(read, name))
        while waiting:
            yield waiting.popleft().result()
