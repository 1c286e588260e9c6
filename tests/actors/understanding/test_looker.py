"""Scores, answers and captions: what they mean, and that a row's bits depend on nothing but the row."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from actors.understanding import looker as looker_module
from actors.understanding.answers import Answers, answer_logprobs
from actors.understanding.looker import Looker
from tests.support import flow_engine, janus_engine
from tests.support.checkpoints import fetched
from tests.support.looking import ANSWERS, QUESTIONS, TINY_OF_FAMILY, goldens, images

NUM_TOKENS = 4


@pytest.fixture(autouse=True)
def num_threads_kept() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def looker(family: str = "janus", dtype: str = "float32") -> Looker:
    return Looker(fetched(TINY_OF_FAMILY[family]), dtype=dtype)


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_a_score_compares_whole_answers_where_they_share_their_first_token(family: str) -> None:
    """In the tiny tokenizers ' yes' and ' no' both begin with a space. ' Yes' and ' No' are not among the goldens."""
    model = looker(family)
    assert model.score_kind == "answer_strings"
    scores = model.score(images(), [QUESTIONS[0]] * 6)
    with torch.inference_mode():
        prompts = model.reader.read([model.reader.tokenizer.ask(QUESTIONS[0])] * 6, [[image] for image in images()])
        ids = [model.reader.tokenizer.answer_ids(answer) for answer in (" Yes", " No")]
        more = np.exp(answer_logprobs(model.reader, prompts, ids))
    probabilities = np.exp(goldens()[f"{family}_answer_logprobs"][:, 0].astype(np.float64))
    yes = probabilities[:, [ANSWERS.index(answer) for answer in (" yes", "yes", "Yes")]].sum(1) + more[:, 0]
    no = probabilities[:, [ANSWERS.index(answer) for answer in (" no", "no", "No")]].sum(1) + more[:, 1]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, yes / (yes + no), atol=1e-5)


def test_a_score_compares_first_tokens_where_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a tokenizer that writes each answer as one token: 'yes' and 'no' have first tokens of their own here."""
    answers = Answers(yes=((88, 264), (56, 264)), no=((77, 78),))
    monkeypatch.setattr(looker_module, "read_answers", lambda tokenizer: answers)
    model = looker()
    assert model.score_kind == "first_token"
    probabilities = goldens()["janus_answer_first_probs"][:, 0]
    yes = probabilities[:, ANSWERS.index("yes")] + probabilities[:, ANSWERS.index("Yes")]
    no = probabilities[:, ANSWERS.index("no")]
    np.testing.assert_allclose(model.score(images(), [QUESTIONS[0]] * 6), yes / (yes + no), atol=1e-5)


@pytest.mark.parametrize(("family", "dtype"), [("janus", "float32"), ("janus", "bfloat16"), ("flow", "float32")])
def test_a_rows_bits_do_not_depend_on_its_batch(family: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chance = looker(family, dtype), random.Random(0)
    rows = [(image, f"Is this number {row}?" + " Really?" * chance.randrange(9)) for row, image in enumerate(images())]
    torch.set_num_threads(1)
    scores = [float(model.score([image], [question])[0]) for image, question in rows]
    texts = [model.answer([image], [question], NUM_TOKENS)[0] for image, question in rows]
    assert len(set(scores)) == len(rows)

    for num_threads, rows_per_part in ((2, 4), (3, 6)):
        torch.set_num_threads(num_threads)
        monkeypatch.setattr(model, "_rows_per_part", rows_per_part)
        order = chance.sample(range(len(rows)), len(rows))
        pictures, questions = [rows[row][0] for row in order], [rows[row][1] for row in order]
        assert model.score(pictures, questions).tolist() == [scores[row] for row in order]
        assert model.answer(pictures, questions, NUM_TOKENS) == [texts[row] for row in order]


def test_a_row_of_nans_is_nan_and_its_neighbors_keep_their_bits() -> None:
    model, rows = looker(), [(images()[0], "red?"), (images()[1], "Zz?"), (images()[0], "blue?")]
    pictures, questions = zip(*rows, strict=True)
    scores, texts = model.score(pictures, questions), model.answer(pictures, questions, NUM_TOKENS)
    embedding = model.reader.llama.embedding_VC
    (token,) = set(model.reader.tokenizer.ask("Z").after) - set(model.reader.tokenizer.ask("").after)
    with torch.inference_mode():
        embedding[token] = torch.nan
    changed, answered = model.score(pictures, questions), model.answer(pictures, questions, NUM_TOKENS)
    assert np.isnan(changed).tolist() == [False, True, False]
    assert changed[[0, 2]].tolist() == scores[[0, 2]].tolist()
    assert answered == [texts[0], None, texts[2]]


def test_when_memory_runs_out_fewer_rows_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = looker(), []
    monkeypatch.setattr(model, "_rows_per_part", 4)  # as on a CPU
    expected = model.score(images(), QUESTIONS * 3)
    read = model.reader.read

    def read_two_at_most(prompts, pictures):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise MemoryError
        return read(prompts, pictures)

    monkeypatch.setattr(model.reader, "read", read_two_at_most)
    assert model.score(images(), QUESTIONS * 3).tolist() == expected.tolist()
    assert sizes == [4, 2, 2, 2]


def test_an_answer_has_no_space_around_it_and_ends_with_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = looker()
    end = model.reader.tokenizer.end_of_sentence_id
    said = [*model.reader.tokenizer.answer_ids(" a red circle "), end]
    monkeypatch.setattr(looker_module, "decode_greedily", lambda reader, prompts, num: [said for _ in prompts])
    assert model.caption(images()[:2]) == ["a red circle"] * 2


def test_a_question_that_leaves_no_room_for_an_answer_is_refused() -> None:
    model = looker()
    assert model.refusal("What is this?") is None
    reason = model.refusal("very " * 200 + "long?", max_tokens=64)
    assert reason is not None
    assert reason.startswith("question and image must have at most 960 tokens, to leave room for the answer, got ")
    assert model.refusal("<|User|>") is not None


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_an_engine_shares_its_text_model(family: str) -> None:
    engine = janus_engine.engine() if family == "janus" else flow_engine.engine()
    checkpoint = fetched(TINY_OF_FAMILY[family])
    shared = Looker(checkpoint, dtype="float32", llama=engine.text_model())
    assert shared.score(images(), QUESTIONS * 3).tolist() == looker(family).score(images(), QUESTIONS * 3).tolist()
    assert family == "flow" or shared.reader.llama is engine.model.llama
