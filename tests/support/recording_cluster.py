"""A Cluster that records the actors it starts, and a Progress that does something at a given image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflows.dispatch.actor import EngineActor
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.progress import Progress, Slot


class RecordingCluster(Cluster):
    """The Ray that is running, with actors of `actor_class`; `handles` are the actors that were requested."""

    def __init__(self, actor_class: type[EngineActor] = EngineActor) -> None:
        super().__init__()
        self.actor_class, self.handles = actor_class, []

    def start_actor(self, *arguments: Any) -> Any:
        self.handles.append(super().start_actor(*arguments))
        return self.handles[-1]


class ProgressWithAlarm(Progress):
    """Calls `do` once, as soon as `num_images` images are written."""

    def __init__(self, num_images: int, do: Callable[[], None]) -> None:
        super().__init__()
        self._alarm_at, self._do, self._is_due = num_images, do, True

    def images_are_written(self, slot: Slot, num_images: int, num_bytes: int, moment: int) -> None:
        super().images_are_written(slot, num_images, num_bytes, moment)
        if self._is_due and self.num_images >= self._alarm_at:
            self._is_due = False
            self._do()
