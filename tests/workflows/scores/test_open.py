"""An open scorer is used by one thread at a time, and says when memory runs out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import pytest

from actors.understanding.scorers.source import ScorerError, ScorerSource
from workflows.scores.open import OneAtATime, open_scorer

CODE = """
import threading, time
lock = threading.Lock()

def score(images, rows):
    is_alone = lock.acquire(blocking=False)
    time.sleep(0.01)
    if is_alone:
        lock.release()
    return [is_alone] * len(images)
"""


def test_threads_take_turns() -> None:
    scorer = open_scorer(ScorerSource(kind="function", file="mine.py", code=CODE, function="score"))
    image, row = np.zeros((2, 2, 3), np.uint8), {"image_id": "a"}

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: scorer.score([image], [row]), range(8)))

    assert found == [{"score": [True]}] * 8


def test_memory_that_runs_out_is_an_error_with_advice() -> None:
    class Large:
        def score(self, images: object, rows: object) -> NoReturn:
            np.empty(2**60, np.uint8)
            raise AssertionError("this machine has an exabyte")

    with pytest.raises(ScorerError, match=r"ran out of memory over 0 images: Unable to allocate .*workers\.max=1"):
        OneAtATime(Large()).score([], [])
