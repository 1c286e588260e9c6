"""Opens a scorer in an actor: fetches what it needs to this machine and loads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors.engines import open_looker
from actors.errors import is_out_of_memory, reason_line
from actors.understanding.scorers.source import Columns, ImageScorer, ScorerError, ScorerSource


def open_scorer(source: ScorerSource) -> ImageScorer:
    """The scorer of a source, which may be called from several threads. Raises ScorerError or CheckpointError."""
    with _memory_errors("when its model was loaded"):
        return OneAtATime(_open(source))


class OneAtATime:
    """A scorer for the threads of an actor: one part is scored while the images of another are read.

    Neither a model's caches and CUDA graphs nor a user's function need to be safe for threads.
    """

    def __init__(self, scorer: ImageScorer) -> None:
        self._scorer, self._lock = scorer, threading.Lock()

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Columns:
        with self._lock, _memory_errors(f"over {len(images)} images"):
            return self._scorer.score(images, rows)


@contextmanager
def _memory_errors(when: str) -> Iterator[None]:
    """Turn the many errors that mean that memory ran out into a ScorerError with advice."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ScorerError(
            f"the scorer ran out of memory {when}: {reason_line(error)}; start fewer actors with --set workers.max=1, "
            "or use a machine or a GPU with more memory"
        ) from error


def _open(source: ScorerSource) -> ImageScorer:
    match source.kind:
        case "clip" | "aesthetic":
            from actors.understanding.scorers.clip import ClipScorer

            return ClipScorer(source)
        case "judge":
            from actors.understanding.scorers.judge import JudgeScorer

            recipe = source.recipe
            looker = None if recipe is None else open_looker(recipe, source.storage_options)
            if recipe is None or recipe.judge is None or looker is None:
                raise ScorerError("the scorer judge needs a recipe with a judge")
            return JudgeScorer(recipe.judge, looker)
        case "function":
            from actors.understanding.scorers.function import FunctionScorer

            return FunctionScorer(source)
