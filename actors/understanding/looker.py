"""Looks at images with a checkpoint: scores yes-or-no questions, answers questions, writes captions.

A row's score and text have the same bits in any batch. Rows are worked on in parts whose size is halved for good when
memory runs out, which changes nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import numpy as np
import torch

from actors.checkpoint.open import Checkpoint
from actors.device import DTYPES, find_device
from actors.errors import is_out_of_memory
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.recipe import CAPTION_QUESTION, CAPTION_TOKENS
from actors.understanding.answers import ScoreKind, read_answers, score_answers
from actors.understanding.decode import decode_greedily
from actors.understanding.prompt import ImagePrompt
from actors.understanding.reader import Reader, ReadPrompt

ROWS_PER_PART = {"cpu": 4, "cuda": 16}


class Looker:
    """A fetched checkpoint that looks at images.

    `llama` is the text model of an engine that has loaded the same checkpoint already (`engine.text_model()`); without
    it, the text model is loaded, too. `dtype` is a key of DTYPES. Raises CheckpointError for a checkpoint that cannot
    look. `score_kind` says what a score compares: the first tokens of yes and no, or the whole strings.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: str, llama: Llama | PackedLlama | None = None) -> None:
        device, self.device = find_device()
        with torch.inference_mode():
            self.reader = Reader(checkpoint, dtype=DTYPES[dtype], device=device, llama=llama)
        self._answers = read_answers(self.reader.tokenizer)
        self.score_kind: ScoreKind = self._answers.kind
        self._rows_per_part = ROWS_PER_PART[device.type]

    def refusal(self, question: str, max_tokens: int = CAPTION_TOKENS) -> str | None:
        """Why this question can never be answered in `max_tokens` tokens, or None."""
        if reason := self.reader.tokenizer.refusal(question):
            return reason
        num_tokens = self.reader.tokenizer.ask(question).num_tokens(self.reader.num_patches)
        longest = self.reader.context_length - max_tokens
        if num_tokens > longest:
            return (
                f"question and image must have at most {longest} tokens, to leave room for the answer, got {num_tokens}"
            )
        return None

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], questions: Sequence[str]) -> np.ndarray:
        """P(yes) / (P(yes) + P(no)) of each question about its image, float32 [N].

        Images are uint8 [height, width, 3]; questions must pass `refusal`. A score is NaN where the model's numbers
        became NaN or infinite, which concerns that row alone.
        """
        scores = np.empty(len(images), np.float32)

        def score_part(rows: list[int], prompts: list[ReadPrompt]) -> None:
            scores[rows] = score_answers(self.reader, prompts, self._answers)

        self._look(images, questions, score_part)
        return scores

    def caption(self, images: Sequence[np.ndarray], max_tokens: int = CAPTION_TOKENS) -> list[str | None]:
        """What each image shows, in at most `max_tokens` tokens. See `answer`."""
        return self.answer(images, [CAPTION_QUESTION] * len(images), max_tokens)

    @torch.inference_mode()
    def answer(
        self, images: Sequence[np.ndarray], questions: Sequence[str], max_tokens: int = CAPTION_TOKENS
    ) -> list[str | None]:
        """The most probable answer to each question, without space around it; None where numbers became NaN."""
        answers: list[str | None] = [None] * len(images)

        def answer_part(rows: list[int], prompts: list[ReadPrompt]) -> None:
            for row, ids in zip(rows, decode_greedily(self.reader, prompts, max_tokens), strict=True):
                answers[row] = self._text_of(ids)

        self._look(images, questions, answer_part)
        return answers

    @torch.inference_mode()
    def see(
        self, images: Sequence[np.ndarray], questions: Sequence[str], are_scored: Sequence[bool], max_tokens: int
    ) -> list[tuple[str | None, float | None]]:
        """Each question's answer, and its score where that is wanted; one reading of the image serves both."""
        seen: list[tuple[str | None, float | None]] = [(None, None)] * len(images)

        def see_part(rows: list[int], prompts: list[ReadPrompt]) -> None:
            scored = [index for index, row in enumerate(rows) if are_scored[row]]
            found = score_answers(self.reader, [prompts[index] for index in scored], self._answers) if scored else []
            scores = dict(zip(scored, map(float, found), strict=True))
            texts = decode_greedily(self.reader, prompts, max_tokens)
            for index, (row, ids) in enumerate(zip(rows, texts, strict=True)):
                seen[row] = self._text_of(ids), scores.get(index)

        self._look(images, questions, see_part)
        return seen

    def _text_of(self, ids: list[int] | None) -> str | None:
        return None if ids is None else self.reader.tokenizer.decode(ids).strip()

    def _look(
        self,
        images: Sequence[np.ndarray],
        questions: Sequence[str],
        finish: Callable[[list[int], list[ReadPrompt]], None],
    ) -> None:
        """Read every question with its image, in parts of a few rows; `finish` gets the rows of each part."""
        asked = [self.reader.tokenizer.ask(question) for question in questions]
        first_row = {id(image): row for row, image in reversed(list(enumerate(images)))}
        left = sorted(range(len(images)), key=lambda row: (first_row[id(images[row])], row))  # an image's rows together
        while left:
            rows = left[: self._rows_per_part]
            if self._is_finished(rows, images, asked, finish):
                left = left[len(rows) :]
            else:
                self._rows_per_part = len(rows) // 2
                gc.collect()  # frees what the failed call still holds

    def _is_finished(
        self,
        rows: list[int],
        images: Sequence[np.ndarray],
        asked: Sequence[ImagePrompt],
        finish: Callable[[list[int], list[ReadPrompt]], None],
    ) -> bool:
        """Look at these rows; False if memory ran out and fewer of them can be tried."""
        try:
            finish(rows, self.reader.read([asked[row] for row in rows], [[images[row]] for row in rows]))
        except Exception as error:
            if len(rows) > 1 and is_out_of_memory(error):
                return False
            raise
        return True
