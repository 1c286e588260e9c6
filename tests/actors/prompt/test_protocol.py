"""What the models that reason are asked, and where their text ends."""

from __future__ import annotations

import dataclasses
import re

import pytest

from actors.prompt.protocol import PROTOCOLS

BEGIN, END = 7, 8


@pytest.mark.parametrize(
    ("name", "beginning", "ending"),
    [
        (
            "t2i-r1",
            "You are a helpful assistant that receives an image prompt and generate a visualization of the prompt.\n\n"
            'User: You are asked to generate an image based on this prompt: "a fox"\nProvide a brief, precise',
            "Output your visualization directly without explanation:\n\nAssistant:",
        ),
        (
            "got-r1",
            "User: Follow the caption to generate an image through a chain of thought process: a fox\n\n",
            "Assistant:",
        ),
        ("reasongen-r1", "<|User|>: A photo of a fox. Output a richly detailed prompt:\n\n", "<|Assistant|>:"),
    ],
)
def test_the_questions_are_those_of_the_public_code(name: str, beginning: str, ending: str) -> None:
    question = PROTOCOLS[name].question_about(" a fox\n")
    assert question.startswith(beginning)
    assert question.endswith(ending)


def test_a_phrase_that_the_question_has_is_taken_out_of_the_prompt() -> None:
    assert "A photo of two foxes. Output" in PROTOCOLS["reasongen-r1"].question_about("a photo of two foxes")
    assert "process: a photo of two foxes\n" in PROTOCOLS["got-r1"].question_about("a photo of two foxes")


@pytest.mark.parametrize(
    ("name", "sampled", "text"),
    [
        ("t2i-r1", [1, 2, END, 3], [1, 2]),
        ("t2i-r1", [1, BEGIN, 3], [1]),
        ("t2i-r1", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("got-r1", [1, END, 3, BEGIN], [1, END, 3]),  # only begin-of-image ends its text
        ("got-r1", [1, 2, 3, 4], [1, 2, 3, 4]),  # and is appended if it does not come
        ("reasongen-r1", [1, 2, END, 4], [1, 2]),
        ("reasongen-r1", [1, 2, 3, 4], [1, 2, 3]),  # begin-of-image takes the place of the last token
        ("reasongen-r1", [END], []),
    ],
)
def test_a_text_ends_where_the_public_code_ends_it(name: str, sampled: list[int], text: list[int]) -> None:
    protocol = dataclasses.replace(PROTOCOLS[name], max_tokens=4)
    assert protocol.text_of(sampled, begin_of_image=BEGIN, end_of_sentence=END) == text


def test_limits_and_sources() -> None:
    assert {name: (protocol.max_tokens, protocol.top_k) for name, protocol in PROTOCOLS.items()} == {
        "t2i-r1": (512, 50),
        "got-r1": (600, None),
        "reasongen-r1": (448, None),
    }
    assert all(re.match(r"https://github.com/", protocol.source) for protocol in PROTOCOLS.values())
