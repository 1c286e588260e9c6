from __future__ import annotations

import numpy as np
import pytest

from actors.understanding.scorers.function import FunctionScorer
from actors.understanding.scorers.source import ScorerError, ScorerSource

IMAGES = [np.full((4, 6, 3), value, np.uint8) for value in (0, 100)]
ROWS = [{"image_id": "a", "prompt": "dark"}, {"image_id": "b", "prompt": "light"}]


def scorer_of(code: str, function: str = "score") -> FunctionScorer:
    return FunctionScorer(ScorerSource(kind="function", file="mine.py", code=code, function=function))


def test_a_function_gets_pictures_and_rows_and_returns_columns() -> None:
    scorer = scorer_of(
        "def score(images, rows):\n    return {'w': [i.width for i in images], 'p': [r['prompt'] for r in rows]}"
    )

    assert scorer.score(IMAGES, ROWS) == {"w": [6, 6], "p": ["dark", "light"]}


def test_a_list_is_the_column_score() -> None:
    scorer = scorer_of(
        "import statistics\ndef score(images, rows):\n    return [i.getpixel((0, 0))[0] for i in images]"
    )

    assert scorer.score(IMAGES, ROWS) == {"score": [0, 100]}


def test_a_file_may_define_classes() -> None:
    code = (
        "from dataclasses import dataclass\n@dataclass\nclass Size:\n    width: int\n"
        "assert Size.__annotations__ == {'width': int}\n"
    )
    for future in ("", "from __future__ import annotations\n"):
        checked = code if not future else code.replace("int}", "'int'}")
        scorer = scorer_of(
            f"{future}{checked}def score(images, rows):\n    return [Size(image.width).width for image in images]"
        )

        assert scorer.score(IMAGES, ROWS) == {"score": [6, 6]}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import numpy\ndef score(images, rows):\n    return numpy.array(1.0)", "`score` has no values"),
        ("def score(images, rows):\n    return {'a': {1: 1, 2: 2}}", "`a` has no values"),
        ("def score(images, rows):\n    return 1 / 0", "mine.py:score failed over a to b: division by zero"),
        ("def score(images, rows):\n    return {1, 2}", "one value per image, .* for 2 images `score` has no values"),
        ("def score(images, rows):\n    return [1]", "one value per image, .* for 2 images `score` has 1 values"),
        ("def score(images, rows):\n    return 'no'", "for 2 images `score` has no values"),
        ("def score(images, rows):\n    return {1: [1, 2]}", "or a dict of such lists by column"),
    ],
)
def test_what_a_function_does_wrong_is_named(code: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        scorer_of(code).score(IMAGES, ROWS)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "mine.py fails when it is run: No module named 'no_such_module'"),
        ("def score(:", "mine.py fails when it is run: "),
        ("score = 1", "mine.py has no function score"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(code: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        scorer_of(code)
