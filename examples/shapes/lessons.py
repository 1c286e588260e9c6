"""Lessons in looking: images, texts about them, and what a model should say after each word. For `train_vision`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from actors.recipe import CAPTION_QUESTION
from actors.understanding.prompt import QuestionTokenizer
from examples.shapes.images import to_floats
from examples.shapes.judge import Seen, differences, look
from examples.shapes.questions import question_of, sentences
from examples.shapes.schedule import device
from examples.shapes.tokenizing import PATCH
from examples.shapes.train_vq import IMAGE_SIZE
from examples.shapes.world import BACKGROUNDS, COLORS, EXTENT, SHAPES, SIZES, Scene, describe, draw, training_scenes

BATCH, QUESTIONS = 16, 6  # images to look at per step, and questions about each
OWN_SHARE = 0.25  # of the images are the model's own
# What can cover a patch, for the training of the tower: a background, or a thing of one color, shape and size.
COVERS = list(BACKGROUNDS) + list(itertools.product(COLORS, SHAPES, SIZES))
IGNORED = -100

# B images, N patches of each, Q texts about each image (questions and one caption), S tokens of a text


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image uint8 [height, width, 3], the scene it was made from, and what the pixel rules see in it."""

    pixels: np.ndarray
    scene: Scene
    seen: tuple[str | None, list[Seen]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A batch of images with texts about each.

    `patches` is what covers each patch, an index into COVERS.
    `words` is the token that follows each one, `verdicts` whether the sentence holds so far (1), or not (0).
    Tokens that train nothing are IGNORED in both. `answers` are the questions' last tokens: row, token, answer's id.
    """

    pixels_B3SS: torch.Tensor
    patches_BN: torch.Tensor
    ids_BQS: torch.Tensor
    words_BQS: torch.Tensor
    verdicts_BQS: torch.Tensor
    answers_A3: torch.Tensor


class Teacher:
    """Makes lessons from drawings and from `own`, the model's own images."""

    def __init__(self, tokenizer: QuestionTokenizer, own: list[Picture], seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, random.Random(f"lessons {seed}")
        self.scenes = training_scenes(seed + 200)
        self.own = [[picture for picture in own if is_right(picture) == wanted] for wanted in (False, True)]
        prompt = tokenizer.ask(question_of("?"))
        self.before = [*prompt.before, tokenizer.begin_of_image_id]
        self.end_of_image = tokenizer.end_of_image_id
        self.yes, self.no = (tokenizer.answer_ids(text)[0] for text in (" yes", " no"))
        self.caption_after = list(tokenizer.ask(CAPTION_QUESTION).after)
        first, second = (list(tokenizer.ask(question_of(text)).after) for text in ("a", "two"))
        self.first_word = _first_difference(first, second)  # of the sentence in a question
        self.num_after = len(first) - self.first_word - 1  # tokens after the sentence

    def lessons(self) -> Iterator[Lesson]:
        """Endless."""
        while True:
            yield self._lesson([self._picture(index) for index in range(BATCH)])

    def _picture(self, index: int) -> Picture:
        if index < BATCH * OWN_SHARE and (own := self.own[index % 2]):
            return self.rng.choice(own)
        scene = next(self.scenes)
        return picture_of(np.asarray(draw(scene, self.rng, IMAGE_SIZE)), scene)

    def _lesson(self, pictures: list[Picture]) -> Lesson:
        texts = [self._texts(picture) for picture in pictures]
        longest = max(len(ids) for rows in texts for ids, _, _ in rows)

        def padded(values: list[int], fill: int) -> list[int]:
            return values + [fill] * (longest - len(values))

        ids = [[padded(ids, 0) for ids, _, _ in rows] for rows in texts]
        words = [[padded(words, IGNORED) for _, words, _ in rows] for rows in texts]
        verdicts = [[padded(verdicts, IGNORED) for _, _, verdicts in rows] for rows in texts]
        answers = [
            [row, len(ids) - 1, self.yes if verdicts[-1] else self.no]
            for row, (ids, _, verdicts) in enumerate(text for rows in texts for text in rows)
            if verdicts[-1] != IGNORED
        ]
        return Lesson(
            pixels_B3SS=to_floats([picture.pixels for picture in pictures]),
            patches_BN=torch.tensor([covers(*picture.seen) for picture in pictures], device=device()),
            ids_BQS=torch.tensor(ids, device=device()),
            words_BQS=torch.tensor(words, device=device()),
            verdicts_BQS=torch.tensor(verdicts, device=device()),
            answers_A3=torch.tensor(answers, device=device()),
        )

    def _texts(self, picture: Picture) -> list[tuple[list[int], list[int], list[int]]]:
        """(ids, words, verdicts) of each text about an image: questions, then a caption if one is known."""
        texts = []
        for sentence in sentences(picture.scene, picture.seen, QUESTIONS, self.rng):
            ids = list(self.tokenizer.ask(question_of(sentence.text)).after)
            end = len(ids) - self.num_after
            verdicts = [IGNORED] * len(ids)
            verdicts[end:] = [int(sentence.is_true)] * (len(ids) - end)
            words = [IGNORED] * len(ids)
            if sentence.near is not None:
                near = list(self.tokenizer.ask(question_of(sentence.near)).after)
                first_wrong = len(ids) if sentence.is_true else _first_difference(ids, near)
                for index in range(self.first_word, end):
                    verdicts[index] = int(index < first_wrong)
                    if index < first_wrong - 1:
                        words[index] = ids[index + 1]
            texts.append((ids, words, verdicts))
        if is_right(picture):
            caption = [*self.tokenizer.answer_ids(f" {describe(picture.scene)}"), self.tokenizer.end_of_sentence_id]
            ids = [*self.caption_after, *caption[:-1]]
            texts.append((ids, [IGNORED] * (len(self.caption_after) - 1) + caption, [IGNORED] * len(ids)))
        else:
            texts.append((self.caption_after, *[[IGNORED] * len(self.caption_after)] * 2))
        return texts


def picture_of(pixels: np.ndarray, scene: Scene) -> Picture:
    return Picture(pixels=pixels, scene=scene, seen=look(pixels))


def is_right(picture: Picture) -> bool:
    return not differences(*picture.seen, picture.scene)


def covers(background: str | None, things: list[Seen]) -> list[int]:
    """What covers each patch of an image, in raster order; IGNORED where the pixel rules do not know."""
    side, found = PATCH * EXTENT // IMAGE_SIZE, []
    for y, x in itertools.product(range(side // 2, EXTENT, side), repeat=2):
        over = [t for t in things if max(abs(t.x - x), abs(t.y - y)) < SIZES[t.size]]
        cover = (over[0].color, over[0].shape, over[0].size) if over else background
        found.append(COVERS.index(cover) if cover in COVERS else IGNORED)
    return found


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
