"""The command that an export advises for images without scores is the one that gave the others theirs."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest

from jobs.cli.main import cli
from jobs.score import ScorerOptions, _check_options
from tests.support.toy_job import recipe
from workflows.scores.command import score_command
from workflows.scores.parts import Scorer
from workflows.storage.store import Storage

QUESTION = "Is it {prompt}? Answer yes or no."


@pytest.mark.parametrize(
    ("scorer", "options"),
    [
        (
            Scorer(name="clip", version="1", checkpoint="o/clip", settings={"kind": "clip", "embeddings": False}),
            {"scorer": "clip", "checkpoint": "o/clip"},
        ),
        (
            Scorer(
                name="c", version="1", checkpoint="a b", revision="7", settings={"kind": "clip", "embeddings": True}
            ),
            {"scorer": "clip", "checkpoint": "a b", "revision": "7", "with_embeddings": True, "name": "c"},
        ),
        (
            Scorer(name="aesthetic", version="1", checkpoint="x", settings={"kind": "aesthetic", "head": "h"}),
            {"scorer": "aesthetic", "checkpoint": "x", "head": "h"},
        ),
        (
            Scorer(name="judge", version="1", checkpoint="toy", settings={"kind": "judge", "question": QUESTION}),
            {"scorer": "judge", "question": QUESTION},
        ),
        (
            Scorer(name="good", version="1", checkpoint="o/j", settings={"kind": "judge", "caption_tokens": 64}),
            {"scorer": "judge", "checkpoint": "o/j", "with_caption": True, "name": "good"},
        ),
        (
            Scorer(name="size", version="1", settings={"kind": "function", "file": "my f.py", "function": "size"}),
            {"scorer": "my f.py:size"},
        ),
    ],
)
def test_the_command_has_the_options_that_the_scorer_was_given(scorer: Scorer, options: dict[str, Any]) -> None:
    command = score_command(Storage("/tmp/my out"), recipe(checkpoint="toy"), scorer)

    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("janus-batch", "score")
    given = cli.commands["score"].make_context("score", arguments, click.Context(cli)).params
    assert given["output"] == "/tmp/my out"
    named = {"scorer", "name", "checkpoint", "revision", "question", "with_caption", "with_embeddings", "head"}
    assert {key: given[key] for key in named if given[key]} == options
    kind = options["scorer"] if options["scorer"] in ("judge", "clip", "aesthetic") else "function"
    _check_options(kind, ScorerOptions(**{key: options[key] for key in options if key not in ("scorer", "name")}))
