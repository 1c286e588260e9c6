"""The GPU actor, from both sides: the process that Ray runs (EngineActor) and the driver's record of it (Actor)."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray

from actors.batcher import Batcher, BatchReport
from actors.engines import Engine, open_engine_and_looker
from actors.request import Answer, ImageRequest
from actors.understanding.judging import JudgingBatcher, Looker, LookReport
from workflows.dispatch import metrics
from workflows.dispatch.progress import Slot
from workflows.job import RenderJob

# Shards that an actor holds at once: one being rendered, one to fill the batches from, one being read.
SHARDS_IN_FLIGHT = 3

# Tasks of one actor that read, write and commit at once. Ray starts a process of about 90 MB for each; images that are
# rendered meanwhile wait in Ray's object store.
MAX_TASKS_PER_ACTOR = 3


_DEVICE_ERRORS = ("CUDA error", "cuDNN error", "Triton Error [CUDA]")


class DeviceLostError(RuntimeError):
    """A GPU failed under the engine; this process can no longer use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCard:
    """What an actor reports about itself once its engine is loaded."""

    device: str
    batch_size: int
    node: str
    pid: int


class EngineActor:
    """One process with one loaded engine. Call `load` first; then `render` any number of times, several at once."""

    def __init__(self, job: RenderJob, batch_size: int | None) -> None:
        self.job, self._batch_size = job, batch_size
        hide_gpus_of_others(job.workers.gpus_per_actor)
        self._renderer: Batcher | JudgingBatcher | None = None

    def load(self) -> EngineCard:
        """Load the engine and, if the job looks at its images, the looker. Raises CheckpointError."""
        with _device_errors():
            engine, looker = self.open_models()
        batcher, judge = Batcher(engine, self._batch_size, on_batch=self._report), self.job.recipe.judge
        self._renderer = JudgingBatcher(batcher, looker, judge, self._report_look) if looker and judge else batcher
        node = ray.get_runtime_context().get_node_id()
        return EngineCard(device=engine.device, batch_size=batcher.batch_size, node=node, pid=os.getpid())

    def open_models(self) -> tuple[Engine, Looker | None]:
        """Fetch the job's checkpoints to this machine, and build its engine and, if it has a judge, its looker."""
        return open_engine_and_looker(self.job.recipe, self.job.storage, allow_faults=self.job.allow_faults)

    def render(self, requests: Sequence[ImageRequest]) -> Iterator[list[Answer]]:
        """Stream the answers to the requests. The pixels go to Ray's object store, not to the driver.

        Candidates that are not kept never leave this process.
        """
        assert self._renderer is not None, "load() comes first"
        with _device_errors():
            yield from self._renderer.render(requests)

    def position(self) -> str:
        """File, line and function that the thread inside the engine is at, to report about a stuck actor."""
        for frame in sys._current_frames().values():
            calls = traceback.extract_stack(frame)
            if any(call.name in ("_ask_engine", "_look") for call in calls):
                last = calls[-1]
                return f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}"
        return "not in its engine"

    def _report(self, batch: BatchReport) -> None:
        job = self.job.name
        metrics.observe("janus_batch_batch_seconds", job, batch.seconds)
        metrics.observe("janus_batch_batch_fill", job, batch.num_images / batch.batch_size)
        metrics.show("janus_batch_queue_depth", job, batch.num_waiting)

    def _report_look(self, look: LookReport) -> None:
        metrics.observe("janus_batch_look_seconds", self.job.name, look.seconds)


def hide_gpus_of_others(num_gpus: float) -> None:
    """In the process of an actor that has asked for `num_gpus`: Ray hides no GPU from one that has asked for none."""
    if not num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@dataclass(kw_only=True, slots=True, eq=False)
class Actor:
    """An actor as the driver sees it: its handle, its card once it is loaded, its images, and why it failed."""

    handle: ray.actor.ActorHandle[EngineActor]
    slot: Slot
    loaded: EngineCard | None = None
    num_images: int = 0
    failure: str | None = None
    ran_out_of_memory: bool = False
    is_leaving: bool = False  # its node is being drained
    tasks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_TASKS_PER_ACTOR))

    @property
    def card(self) -> EngineCard:
        """The card of a loaded actor; only loaded actors get shards."""
        assert self.loaded is not None
        return self.loaded

    @property
    def name(self) -> str:
        return f"process {self.card.pid} on node {self.card.node[:8]}" if self.loaded else "an actor that is loading"


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn a CUDA failure into a DeviceLostError. Libraries mostly raise a plain RuntimeError, so the text decides."""
    try:
        yield
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in _DEVICE_ERRORS):
            raise
        raise DeviceLostError(str(error)) from error
