"""What a process needs to open a scorer, and what an open scorer does. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from actors.errors import InputError
from actors.recipe import Recipe

Columns = Mapping[str, Sequence[Any] | np.ndarray]


class ScorerError(InputError):
    """A scorer cannot be opened, or its code failed over an image."""


class ImageScorer(Protocol):
    """Scores images in an actor. There is no base class: every scorer has this method."""

    def score(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Columns:
        """The columns of scores, one value per image; None or NaN where there is no score.

        Images are uint8 [height, width, 3]; `rows` are their manifest rows. A value depends on the images of the call,
        which are always the same ones: those of one part of the manifest, in its order.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSource:
    """A scorer as it travels to the actors.

    * `checkpoint`, `revision`, `weights_sha256`: the pinned CLIP or SigLIP model of `clip` and `aesthetic`.
    * `with_embeddings`: also store the vectors that `clip` compares.
    * `head`: the content of the safetensors file of `aesthetic`.
    * `recipe`: for `judge`: the recipe of the output, with the judge that asks.
    * `file`, `code`, `function`: for a user's scorer: the file's name for messages, its text, the function's name.
    """

    kind: Literal["clip", "aesthetic", "judge", "function"]
    checkpoint: str = ""
    revision: str | None = None
    weights_sha256: str = ""
    with_embeddings: bool = False
    head: bytes = b""
    recipe: Recipe | None = None
    file: str = ""
    code: str = ""
    function: str = ""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
