"""Questions become the reference's ids, and what could pass for another image or the end of a turn is refused."""

from __future__ import annotations

import re

import pytest

from actors.errors import CheckpointError
from actors.prompt.template import PROMPT_FORMATS, PromptTemplate
from actors.understanding.prompt import IMAGE, ImagePrompt, QuestionTokenizer
from tests.support.checkpoints import TINY
from tests.support.looking import ANSWERS, INFO, QUESTIONS, TINY_OF_FAMILY, goldens

NUM_PATCHES = 36
FORMATS = {"janus": "janus-pro", "janus_janusstyle": "janus", "flow": "janus"}


def tokenizer(family: str = "janus") -> QuestionTokenizer:
    folder = TINY_OF_FAMILY[family.split("_")[0]]
    return QuestionTokenizer(folder, PROMPT_FORMATS[FORMATS[family]], vocab_size=448)


def whole_ids(prompt: ImagePrompt) -> list[int]:
    """All ids, with those of the images in their places, as the reference writes them."""
    ids = INFO["ids"]
    image = [ids["begin_of_image"], *[ids["image_placeholder"]] * NUM_PATCHES, ids["end_of_image"]]
    whole = list(prompt.before)
    for text in (*prompt.between, prompt.after):
        whole += [*image, *text]
    return whole


@pytest.mark.parametrize("family", FORMATS)
@pytest.mark.parametrize("index", [0, 1])
def test_ids_are_the_references(family: str, index: int) -> None:
    prompt = tokenizer(family).ask(QUESTIONS[index])
    assert whole_ids(prompt) == goldens()[f"{family}_q{index}_ids"].tolist()
    assert prompt.num_tokens(NUM_PATCHES) == len(whole_ids(prompt))


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_ids_of_two_images_are_the_references(family: str) -> None:
    prompt = tokenizer(family).read(INFO["prompts"][f"{family}_pair"]["content"])
    assert prompt.num_images == 2
    assert whole_ids(prompt) == goldens()[f"{family}_pair_ids"].tolist()


def test_answers_are_encoded_alone() -> None:
    expected = INFO["answers"]["token_ids"]
    assert {answer: list(tokenizer().answer_ids(answer)) for answer in ANSWERS} == expected


def test_a_question_is_stripped_at_its_end_only() -> None:
    asked = tokenizer().ask("what?")
    assert tokenizer().ask("what? \n ") == asked
    assert tokenizer().ask("  what?") != asked


def test_a_template_of_its_own_leaves_the_role_tags() -> None:
    """A job may put other text around prompts to render; a question has the reference's around it."""
    template = PromptTemplate(prefix="<|User|>: draw ", suffix="\n\n<|Assistant|>: here", system_prompt="You draw.")
    assert QuestionTokenizer(TINY, template, vocab_size=448).ask("what?") == tokenizer().ask("what?")


@pytest.mark.parametrize(
    "token",
    [
        IMAGE,
        "<begin_of_image>",
        "<end_of_image>",
        "<|User|>",
        "<|Assistant|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
)
def test_a_question_with_a_special_token_is_refused(token: str) -> None:
    reason = f"a question must not contain the model's special token {token}"
    assert tokenizer().refusal(f"Does this image show {token}?") == reason


def test_a_question_that_is_no_text_is_refused() -> None:
    assert "lone surrogate U+D800" in (tokenizer().refusal("what \ud800?") or "")
    assert tokenizer().refusal("Is 1 < 2 and > 0? <b>bold</b> <|user|>") is None


def test_a_content_without_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape(f"must contain {IMAGE}")):
        tokenizer().read("what?")


def test_an_answer_ends_with_its_sentence() -> None:
    ids = list(tokenizer().answer_ids("yes"))
    end = INFO["ids"]["eos"]
    assert tokenizer().decode([*ids, end, *ids]) == "yes"
    assert tokenizer().decode([*ids, 447]) == "yes"  # beyond the vocabulary, and decodes to nothing


def test_a_vocabulary_without_the_tokens_of_an_image_is_refused(tmp_path) -> None:
    text = (TINY / "tokenizer.json").read_text("utf-8").replace(IMAGE, "<other>")
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=f"has no {IMAGE}"):
        QuestionTokenizer(tmp_path, PROMPT_FORMATS["janus"], vocab_size=448)
