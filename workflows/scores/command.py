"""The command that gives an output's other images the same kind of scores."""

from __future__ import annotations

import shlex

from actors.recipe import Recipe
from workflows.scores.parts import Scorer
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage


def score_command(output: Storage, recipe: Recipe, scorer: Scorer) -> str:
    """`janus-batch score` with what the record of the scorer says of its options.

    A file of the user is known by its name only, without its folder. `recipe` is the output's, whose checkpoint is a
    judge's by default.
    """
    settings = scorer.settings
    kind = settings.get("kind", scorer.name)
    function = settings.get("function", "")
    options = ["--scorer", f"{settings.get('file')}:{function}" if kind == "function" else kind]
    if scorer.checkpoint and (kind != "judge" or scorer.checkpoint != recipe.checkpoint):
        options += ["--checkpoint", scorer.checkpoint]
        options += ["--revision", scorer.revision] if scorer.revision else []
    for key in ("head", "question"):
        options += [f"--{key}", settings[key]] if settings.get(key) else []
    options += ["--embeddings"] if settings.get("embeddings") is True else []
    options += ["--caption"] if settings.get("caption_tokens") else []
    options += ["--name", scorer.name] if scorer.name != (function or kind) else []
    return f"janus-batch score {output_arguments(output.url, output.options)} {shlex.join(options)}"
