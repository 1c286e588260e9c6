"""Opens a scorer in an actor: fetches what it needs to this machine and loads it."""

from __future__ import annotations

from actors.engines import open_looker
from actors.understanding.scorers.source import ImageScorer, ScorerError, ScorerSource


def open_scorer(source: ScorerSource) -> ImageScorer:
    """The scorer of a source. Raises ScorerError or CheckpointError."""
    match source.kind:
        case "clip" | "aesthetic":
            from actors.understanding.scorers.clip import ClipScorer

            return ClipScorer(source)
        case "judge":
            from actors.understanding.scorers.judge import JudgeScorer

            recipe = source.recipe
            looker = None if recipe is None else open_looker(recipe, source.storage_options)
            if recipe is None or recipe.judge is None or looker is None:
                raise ScorerError("the scorer judge needs a recipe with a judge")
            return JudgeScorer(recipe.judge, looker)
        case "function":
            from actors.understanding.scorers.function import FunctionScorer

            return FunctionScorer(source)
