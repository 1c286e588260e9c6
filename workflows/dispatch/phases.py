"""How long each phase of a run took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

# In the order of a run. Loading ends when the first actor is ready, and writing begins when the last batch is written.
Phase = Literal["planning", "starting Ray", "loading", "rendering", "writing", "checking", "report"]


@dataclass(kw_only=True, slots=True)
class Phases:
    """Seconds by phase. A phase that a run does not have is not listed."""

    seconds: dict[Phase, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Add the time that the block takes; a block that raises does not count."""
        start = self.clock()
        yield
        self.add(phase, self.clock() - start)

    def add(self, phase: Phase, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + max(seconds, 0.0)
