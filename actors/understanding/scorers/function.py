"""A user's own scorer: a function in a Python file, which gets images and manifest rows and returns columns.

def score(images: list[PIL.Image.Image], rows: list[dict]) -> dict[str, list]
"""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from PIL import Image

from actors.errors import reason_line
from actors.understanding.scorers.source import Columns, ScorerError, ScorerSource

MODULE = "janus_batch_scorer"


class FunctionScorer:
    """The function of a ScorerSource. Its file is run once, when the scorer is opened, and sent as text to each actor.

    Raises ScorerError if the file fails or has no such function, and where the function fails or returns other columns
    than one value per image.
    """

    def __init__(self, source: ScorerSource) -> None:
        self._name = f"{source.file}:{source.function}"
        module = types.ModuleType(MODULE)
        module.__file__ = source.file
        sys.modules[MODULE] = module  # where dataclasses and pickle look for the file's classes
        # The lines of tracebacks: the file is not on the disk of every node.
        linecache.cache[source.file] = (len(source.code), None, source.code.splitlines(keepends=True), source.file)
        try:
            code = compile(source.code, source.file, "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102  the code of whoever runs the command
        except Exception as error:
            raise ScorerError(f"{source.file} fails when it is run: {reason_line(error)}") from error
        function = getattr(module, source.function, None)
        if not callable(function):
            raise ScorerError(f"{source.file} has no function {source.function}")
        self._function = function

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Columns:
        try:
            found = self._function([Image.fromarray(image) for image in images], [dict(row) for row in rows])
        except Exception as error:
            image_ids = f"{rows[0]['image_id']} to {rows[-1]['image_id']}" if rows else "no images"
            raise ScorerError(f"{self._name} failed over {image_ids}: {reason_line(error)}") from error
        columns = found if isinstance(found, Mapping) else {"score": found}
        for name, values in columns.items():
            num_values = _num_values(values)
            if not isinstance(name, str) or num_values != len(images):
                raise ScorerError(
                    f"{self._name} must return a list with one value per image, or a dict of such lists by column; "
                    f"for {len(images)} images `{name}` has {num_values if num_values is not None else 'no'} values"
                )
        return columns


def _num_values(values: Any) -> int | None:
    """How many values a list, an array or a series has; None for everything else, such as a set, which has no order."""
    if (
        isinstance(values, str | bytes | Mapping | Set)
        or getattr(values, "ndim", 1) == 0
        or not hasattr(values, "__len__")
    ):
        return None
    return len(values)
