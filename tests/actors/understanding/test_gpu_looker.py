"""The looker as a GPU runs it: the CPU's scores and answers, also where memory runs out."""

from __future__ import annotations

import numpy as np
import pytest

from actors.understanding import looker as looker_module
from actors.understanding.looker import Looker
from tests.support import fake_gpu
from tests.support.checkpoints import TINY, fetched
from tests.support.hardware import runs_engines_on_a_cpu
from tests.support.looking import QUESTIONS, images

pytestmark = runs_engines_on_a_cpu

MAX_TOKENS = 6


@pytest.mark.parametrize("shares_its_model", [True, False])
def test_scores_and_answers_are_those_of_the_cpu(shares_its_model: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, questions = images()[:5], QUESTIONS[:1] * 5
    cpu = Looker(fetched(TINY), dtype="float32")
    scores, answers = cpu.score(pictures, questions), cpu.answer(pictures, questions, MAX_TOKENS)

    cuda = fake_gpu.install(monkeypatch)
    monkeypatch.setattr(looker_module, "find_device", lambda: (fake_gpu.Device("cpu"), "a GPU"))
    llama = fake_gpu.janus(grid_size=2).text_model() if shares_its_model else None
    gpu = Looker(fetched(TINY), dtype="float32", llama=llama)

    np.testing.assert_allclose(gpu.score(pictures, questions), scores, atol=1e-5)
    assert gpu.answer(pictures, questions, MAX_TOKENS) == answers
    cuda.launches_left = 40
    assert gpu.answer(pictures, questions, MAX_TOKENS) == answers
    assert cuda.launches_left < 0, "memory did not run out"
