"""An open scorer is used by one thread at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from actors.understanding.scorers.source import ScorerSource
from workflows.scores.open import open_scorer

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
