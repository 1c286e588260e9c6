"""The text around a prompt as data: what it says, which of its pieces must be tokens, and its way into a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import CheckpointError
from actors.prompt.template import (
    PROMPT_FORMATS,
    TEMPLATES,
    PromptTemplate,
    template_from_json,
    template_to_json,
)
from actors.prompt.tokenizer import PromptTokenizer
from tests.support.checkpoints import TINY

PLAIN = PromptTemplate(prefix="Q: ", suffix="\nA:")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PROMPT_FORMATS["janus"], "User: a fox\n\nAssistant:"),
        (PROMPT_FORMATS["janus-pro"], "<|User|>: a fox\n\n<|Assistant|>:"),
        (PLAIN, "Q: a fox\nA:"),
        (PromptTemplate(prefix="Q: ", suffix="", system_prompt="Be brief."), "Be brief.\n\nQ: a fox"),
    ],
)
def test_a_template_is_the_text_around_a_prompt(template: PromptTemplate, text: str) -> None:
    assert template.text("  a fox \n") == text


def test_the_tags_of_a_template_are_its_pieces_that_must_be_tokens() -> None:
    assert PROMPT_FORMATS["janus"].tags == ()
    assert PROMPT_FORMATS["janus-pro"].tags == ("<|User|>", "<|Assistant|>")
    assert PROMPT_FORMATS["janus-pro"].roles == "<|User|> and <|Assistant|>"


def test_a_tag_that_is_no_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the vocabulary of tokenizer.json has no <\|Painter\|>"):
        PromptTokenizer(TINY, PromptTemplate(prefix="<|User|>: ", suffix="\n\n<|Painter|>:"))


@pytest.mark.parametrize("name", PROMPT_FORMATS)
def test_a_format_and_its_template_give_the_same_ids(name: str) -> None:
    given = PromptTemplate(prefix=TEMPLATES[name].prefix, suffix=TEMPLATES[name].suffix)
    assert PromptTokenizer(TINY, given).cond_ids("a red cube") == PromptTokenizer(TINY, name).cond_ids("a red cube")


def test_the_unconditional_row_is_pads_or_an_empty_prompt() -> None:
    pads = PromptTokenizer(TINY, PLAIN)
    empty = PromptTokenizer(TINY, PromptTemplate(prefix="Q: ", suffix="\nA:", unconditional="empty"))
    assert (pads.negative_prompt(None), empty.negative_prompt(None)) == (None, "")
    assert pads.negative_prompt("blur") == empty.negative_prompt("blur") == "blur"


def test_a_template_comes_back_from_a_manifest_row() -> None:
    assert template_from_json(template_to_json(PLAIN)) == PLAIN
    assert template_from_json(template_to_json(None)) is None
    with pytest.raises(ValueError, match="suffix"):
        template_from_json('{"prefix": ""}')
