"""The commands that give an output scores: the same kind for its other images, and those that it lacks."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable

from actors.recipe import Recipe
from workflows.output.manifest import JUDGE_SCHEMA
from workflows.scores.parts import Scorer
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

# The scorers whose scores have their name, and the options that `score` needs for them.
SCORERS = {"judge": "", "clip": " --checkpoint NAME", "aesthetic": " --checkpoint NAME --head FILE", "duplicates": ""}
_ALIKE = 0.75  # how similar two names must be, from 0 to 1, if one may be a slip of the other


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


def advice_on(column: str, columns: Iterable[str], output: Storage) -> str:
    """How an output gets a column of this name, or which of its columns may be meant: the end of a sentence."""
    score = f"janus-batch score {output_arguments(output.url, output.options)} --scorer"
    name, by_name = column.partition(".")[0].lower(), {known.lower(): known for known in columns}
    if name in JUDGE_SCHEMA.names:
        return f"; the judge of a job writes it, and `{score} judge` gives finished images the column judge"
    alike = difflib.get_close_matches(name, [*by_name, *SCORERS], n=1, cutoff=_ALIKE)
    if alike and alike[0] in by_name:
        return f"; did you mean {by_name[alike[0]]}?"
    if alike:
        return f"; `{score} {alike[0]}{SCORERS[alike[0]]}` makes the column {alike[0]}"
    return f"; `{score} judge` adds scores, and so do the scorers clip, aesthetic, duplicates and FILE.py:function"
