"""A pool of actors that work through the parts of a manifest. Ray replaces an actor that is lost, and retries its part.

For work that is the same whoever does it and however often, such as scoring. Rendering has its own dispatch, which
finds out whether a row is to blame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions as ray_errors

from actors.errors import InputError, JobFailure
from workflows.dispatch.actor import hide_gpus_of_others
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.failures import cause_of, reason_of
from workflows.dispatch.metrics import reporting
from workflows.dispatch.progress import Progress, Slot
from workflows.job import RenderJob

PARTS_IN_FLIGHT = 2  # of each actor: one to work on while the images of the next are read
ROOM_SECONDS = 5.0  # of waiting before actors without room are counted

Tool = TypeVar("Tool")
Done = TypeVar("Done")


class PartsFailedError(JobFailure):
    """A part of the output could not be worked through, however often it was tried."""


class PartActor(Generic[Tool, Done]):
    """A process that opens a tool and applies it to parts, several at once. Ray opens it again in a new process."""

    def __init__(self, open_tool: Callable[[], Tool], work: Callable[[Tool, str], Done], *, num_gpus: float) -> None:
        hide_gpus_of_others(num_gpus)
        self._open_tool, self._work = open_tool, work
        self._tools: list[Tool] = []  # the one that is open
        self._lock = threading.Lock()

    def open(self) -> Tool:
        """Open the tool, unless it is open. Not in `__init__`: its error reaches the driver as it is."""
        with self._lock:
            if not self._tools:
                self._tools.append(self._open_tool())
            return self._tools[0]

    def open_on(self) -> str:
        """Open the tool; the node on which it is open now."""
        self.open()
        return str(ray.get_runtime_context().get_node_id())

    def run(self, part: str) -> Done:
        """Work on a part."""
        return self._work(self.open(), part)


def run_over_parts(
    job: RenderJob,
    cluster: Cluster,
    progress: Progress,
    parts: Sequence[str],
    open_tool: Callable[[], Tool],
    work: Callable[[Tool, str], Done],
    on_done: Callable[[Slot, Done], None],
) -> None:
    """Work through the parts on actors of the size that `job.workers` asks for, on a cluster that has been started.

    Raises the InputError or JobFailure of a tool or of its work, and PartsFailedError if actors are lost again and
    again.
    """
    num_actors = cluster.pool_size(job, len(parts))
    num_cpus = cluster.cpus_per_actor(job, num_actors)
    actors = [_start_actor(job, num_cpus, open_tool, work) for _ in range(num_actors)]
    slots = [progress.add_slot() for _ in actors]
    waiting = list(reversed(parts))
    opening = {actor.open_on.remote(): number for number, actor in enumerate(actors)}
    working: dict[Any, int] = {}  # the result of a part -> the number of its actor
    with reporting(progress), _part_errors(job), _ending(slots, actors):
        while working or waiting:
            found, _ = ray.wait([*working, *opening], timeout=ROOM_SECONDS)
            if not found:
                progress.room_is_lacking(cluster.num_lacking_room(job, num_cpus) if opening else 0)
                continue
            (reference,) = found
            if (number := opening.pop(reference, None)) is not None:
                progress.actor_is_ready(slots[number], "", ray.get(reference))
                num_taken = PARTS_IN_FLIGHT
            else:
                number = working.pop(reference)
                on_done(slots[number], ray.get(reference))
                num_taken = 1
            for _ in range(min(num_taken, len(waiting))):
                working[actors[number].run.remote(waiting.pop())] = number
            slots[number].state = "rendering" if number in working.values() else "idle"


@contextmanager
def _part_errors(job: RenderJob) -> Iterator[None]:
    """Turn Ray's errors into those of the tool or of its work, or into a PartsFailedError."""
    try:
        yield
    except ray_errors.RayError as error:
        cause = cause_of(error)
        if isinstance(cause, InputError | JobFailure):
            raise cause from None
        if isinstance(cause, ray_errors.RayError):
            raise PartsFailedError(
                f"a part was tried {1 + job.workers.max_tries} times and lost its actor: {reason_of(error)}"
            ) from error
        raise


@contextmanager
def _ending(slots: Sequence[Slot], actors: Sequence[Any]) -> Iterator[None]:
    """End the actors after the block."""
    try:
        yield
    finally:
        for slot, actor in zip(slots, actors, strict=True):
            slot.is_ended()
            ray.kill(actor)


def _start_actor(
    job: RenderJob, num_cpus: float, open_tool: Callable[[], Tool], work: Callable[[Tool, str], Done]
) -> Any:
    options: dict[str, Any] = {
        "num_gpus": job.workers.gpus_per_actor,
        "num_cpus": num_cpus,
        "accelerator_type": job.workers.accelerator_type,
        "max_concurrency": PARTS_IN_FLIGHT,
        "max_restarts": -1,  # an actor may be lost any number of times; each of its parts has its own tries
        "max_task_retries": job.workers.max_tries,
    }
    return ray.remote(PartActor).options(**options).remote(open_tool, work, num_gpus=job.workers.gpus_per_actor)
