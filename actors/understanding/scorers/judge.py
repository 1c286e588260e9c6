"""A checkpoint's answer to a yes-or-no question about each image, as a scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.recipe import Judge
from actors.understanding.judging import Looker
from actors.understanding.scorers.source import Columns


class JudgeScorer:
    """A looker with the question of a judge. `score` is NaN for an image that cannot be asked about: a long prompt."""

    def __init__(self, judge: Judge, looker: Looker) -> None:
        self._judge, self._looker = judge, looker

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Columns:
        questions = [self._judge.question_about(row["prompt"]) for row in rows]
        asked = [index for index, question in enumerate(questions) if self._looker.refusal(question) is None]
        scores = np.full(len(images), np.nan, np.float32)
        scores[asked] = self._looker.score([images[i] for i in asked], [questions[i] for i in asked])
        if self._judge.caption_tokens is None:
            return {"score": scores}
        return {"score": scores, "caption": list(self._looker.caption(images, self._judge.caption_tokens))}
