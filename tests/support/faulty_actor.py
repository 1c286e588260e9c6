"""Actors whose engine fails in ways that the toy engine's words do not cover, and that record their render calls."""

from __future__ import annotations

import os
import pickle
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.engines import open_looker
from actors.request import Answer, ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from actors.understanding.judging import Looker
from workflows.dispatch.actor import EngineActor
from workflows.job import RenderJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A finished call of `FaultyActor.render`: its process, its argument, and when it ran by the monotonic clock."""

    pid: int
    argument: Sequence[ImageRequest]
    start: float
    end: float


class FaultyEngine(ToyEngine):
    """Obeys `fault:WORD` in a prompt.

    `stall` renders for an hour. `stall-once` does so in the first process that meets it; `exit-once` ends that process.
    `memory=N` has no memory for batches of more than N images.
    """

    def __init__(self, job: RenderJob) -> None:
        super().__init__(job.recipe)
        self._marks = marks_of(job)

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        for request in requests:
            for word in request.prompt.split():
                if word.startswith("fault:"):
                    self._obey(word.removeprefix("fault:"), request, len(requests))
        return super().render(requests)

    def _obey(self, word: str, request: ImageRequest, num_requests: int) -> None:
        name, _, number = word.partition("=")
        if name == "memory" and num_requests > int(number):
            raise MemoryError(f"no memory for {num_requests}")
        if name == "stall" or (name == "stall-once" and self._is_first(request)):
            time.sleep(3600)
        if name == "exit-once" and self._is_first(request):
            os._exit(1)

    def _is_first(self, request: ImageRequest) -> bool:
        try:
            (self._marks / request.image_id).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FaultyActor(EngineActor):
    """An actor with a FaultyEngine. `fault:bug` in a prompt is a bug of the actor itself."""

    def open_models(self) -> tuple[ToyEngine, Looker | None]:
        folder = marks_of(self.job)
        folder.mkdir(exist_ok=True)
        (folder / f"{time.monotonic():.6f}.{os.getpid()}.pid").touch()
        return FaultyEngine(self.job), open_looker(self.job.recipe, {})

    def render(self, requests: Sequence[ImageRequest]) -> Iterator[list[Answer]]:
        if any("fault:bug" in request.prompt for request in requests):
            raise TypeError("a bug of ours")
        start = time.monotonic()
        yield from super().render(requests)
        call = Call(pid=os.getpid(), argument=requests, start=start, end=time.monotonic())
        (marks_of(self.job) / f"{uuid.uuid4().hex}.call").write_bytes(pickle.dumps(call))


class BrokenEngine(ToyEngine):
    """Ends its process over every batch."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        os._exit(1)


class BrokenActor(EngineActor):
    """An actor with a BrokenEngine."""

    def open_models(self) -> tuple[ToyEngine, Looker | None]:
        return BrokenEngine(self.job.recipe), None


def marks_of(job: RenderJob) -> Path:
    """The folder, next to the job's local output, in which these actors leave their marks."""
    return Path(f"{job.output}-marks")


def pids_of(job: RenderJob) -> list[int]:
    """The processes of the job's faulty actors, in the order in which they loaded their engines."""
    names = sorted(path.stem for path in marks_of(job).glob("*.pid"))
    return [int(name.rsplit(".", 1)[1]) for name in names]


def calls_of(job: RenderJob) -> list[Call]:
    """The finished render calls of the job's faulty actors."""
    return [pickle.loads(path.read_bytes()) for path in marks_of(job).glob("*.call")]
