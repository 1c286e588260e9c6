"""Actors whose engine fails as real ones do, in ways that the toy engine's words do not cover."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from actors.batcher import Answer, Painter
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from workflows.dispatch.pool import EngineCard, PainterActor
from workflows.rows import ShardRows


class FaultyEngine(ToyEngine):
    """Obeys `fault:WORD` in a prompt, and notes beside the output which process rendered which images.

    `stall` renders for an hour. `stall-once` does so in the first process that meets it, `exit-once` ends that process.
    `memory=N` has no memory for batches of more than N images.
    """

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
        mark = Path(os.environ["FAULTS_FOLDER"]) / request.image_id
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FaultyActor(PainterActor):
    """An actor with such an engine, in place of the real one; `fault:bug` is a mistake in the actor itself."""

    marks = "/tmp"

    def load(self) -> EngineCard:
        os.environ["FAULTS_FOLDER"] = self.marks
        card = super().load()
        self._painter = Painter(FaultyEngine(self._job.recipe), self._batch_size, on_batch=self._report)
        return card

    def paint(self, rows: ShardRows, start: int = 0, stop: int | None = None) -> Iterator[list[Answer]]:
        if any("fault:bug" in request.prompt for request in rows.requests):
            raise TypeError("a bug of ours")
        yield from super().paint(rows, start, stop)
