"""The engine of a job that looks: every request is answered, and numbers that became NaN reject their row alone."""

from __future__ import annotations

import numpy as np

from actors.batcher import Batcher
from actors.request import LookRequest, Rejection, SeenImage
from actors.understanding.engine import LookingEngine
from actors.understanding.looker import Looker
from actors.understanding.pixels import to_square
from tests.support.checkpoints import TINY, fetched
from tests.support.looking import images, pixel_settings
from tests.support.toy_job import LOOK


def request(row: int, question: str, *, is_scored: bool = False, picture: np.ndarray | None = None) -> LookRequest:
    return LookRequest(
        image_id=f"row-{row}",
        prompt_id=f"row-{row}",
        prompt=question,
        picture=images()[0] if picture is None else picture,
        is_scored=is_scored,
        image=None,
        image_sha256="",
        width=1,
        height=1,
    )


class Blind:
    """A looker whose numbers become NaN in some answers and in some scores."""

    device, score_kind = "cpu", "first_token"

    def refusal(self, question: str, max_tokens: int) -> str | None:
        return f"too long for {max_tokens}" if question == "long" else None

    def see(self, images, questions, are_scored, max_tokens):
        return [
            (None if question == "nan" else question, float("nan") if question == "score" else 0.5)
            for question in questions
        ]


def test_a_row_of_nans_is_rejected_and_its_neighbors_are_not() -> None:
    batcher = Batcher(LookingEngine(Blind(), LOOK))
    requests = [request(row, question) for row, question in enumerate(["red?", "nan", "score", "long", "blue?"])]
    answers = dict(answer for answers in batcher.render(requests) for answer in ((a.image_id, a) for _, a in answers))
    reason = "the model's numbers became NaN or infinite"
    assert answers == {
        "row-0": SeenImage(image_id="row-0", answer="red?", score=0.5, score_kind="first_token"),
        "row-1": Rejection(image_id="row-1", reason=reason),
        "row-2": Rejection(image_id="row-2", reason=reason),
        "row-3": Rejection(image_id="row-3", reason="too long for 64"),
        "row-4": SeenImage(image_id="row-4", answer="blue?", score=0.5, score_kind="first_token"),
    }


def test_answers_and_scores_are_those_of_the_looker() -> None:
    looker = Looker(fetched(TINY), dtype="float32")
    squares = [to_square(image, pixel_settings().square) for image in images()]
    questions = [f"Is it number {row}?" for row in range(len(squares))]
    requests = [
        request(row, question, is_scored=row % 2 == 0, picture=square)
        for row, (question, square) in enumerate(zip(questions, squares, strict=True))
    ]
    answers = LookingEngine(looker, LOOK).render(requests)
    scores, texts = looker.score(images(), questions).tolist(), looker.answer(images(), questions, LOOK.max_tokens)
    assert [answer.answer for answer in answers] == texts
    assert [answer.score for answer in answers] == [score if row % 2 == 0 else None for row, score in enumerate(scores)]
    assert [answer.score_kind for answer in answers] == ["answer_strings", None] * 3
