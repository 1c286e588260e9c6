"""The scorers of images: their records, which name all that decides a score, and what their actors need."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from actors.checkpoint.open import Checkpoint, open_checkpoint, weights_digest
from actors.errors import CheckpointError, one_line, shown
from actors.families import FAMILIES
from actors.recipe import Judge, Recipe
from actors.understanding.ability import check_can_look
from actors.understanding.scorers.clip_checkpoint import open_clip_checkpoint
from actors.understanding.scorers.head import check_head, embedding_dimensions
from actors.understanding.scorers.source import ScorerSource
from workflows.scores.parts import Scorer, ScoresError

# Changes whenever the same model and settings would give other scores.
VERSIONS = {"clip": "clip-1", "aesthetic": "aesthetic-1", "function": "function-1"}
MAX_FILE_BYTES = 2**20

Found = tuple[Scorer, ScorerSource]


def clip_scorer(
    name: str, checkpoint: str, revision: str | None, storage_options: dict[str, Any], *, with_embeddings: bool
) -> Found:
    """Image-text similarity by a CLIP or SigLIP model."""
    model = open_clip_checkpoint(checkpoint, revision=revision, storage_options=storage_options)
    source = dataclasses.replace(_clip_source("clip", model, storage_options), with_embeddings=with_embeddings)
    return _record(name, source, {"embeddings": with_embeddings}), source


def aesthetic_scorer(
    name: str, checkpoint: str, revision: str | None, storage_options: dict[str, Any], *, head: str
) -> Found:
    """A linear head, in a safetensors file, over the image embeddings of a CLIP or SigLIP model.

    Raises ScorerError for a head that does not fit the model.
    """
    data = _read(head, "--head")
    model = open_clip_checkpoint(checkpoint, revision=revision, storage_options=storage_options)
    check_head(data, embedding_dimensions(model.config))
    source = dataclasses.replace(_clip_source("aesthetic", model, storage_options), head=data)
    return _record(name, source, {"head": Path(head).name, "head_sha256": hashlib.sha256(data).hexdigest()}), source


def judge_scorer(
    name: str,
    recipe: Recipe,
    checkpoint: str | None,
    revision: str | None,
    storage_options: dict[str, Any],
    *,
    question: str,
    caption_tokens: int | None,
) -> Found:
    """P(yes) of a question, asked of the checkpoint that rendered the images or of another one."""
    own = checkpoint is None
    model = open_checkpoint(
        recipe.checkpoint if checkpoint is None else checkpoint,
        revision=recipe.revision if own else revision,
        prompt_format=recipe.prompt_format if own else None,
        storage_options=storage_options,
    )
    try:
        check_can_look(model)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; --checkpoint must name a checkpoint with a vision tower") from error
    judge = Judge(
        is_own=own and not recipe.adapters,
        question=question,
        caption_tokens=caption_tokens,
        family=model.family,
        checkpoint=model.name,
        revision=model.revision,
        weights_sha256=weights_digest(model),
        prompt_format=model.prompt_format,
        looker=FAMILIES[model.family].looker_version,
    )
    source = ScorerSource(
        kind="judge", recipe=dataclasses.replace(recipe, judge=judge), storage_options=storage_options
    )
    scorer = Scorer(
        name=name,
        version=judge.looker,
        checkpoint=judge.checkpoint,
        revision=judge.revision,
        weights_sha256=judge.weights_sha256,
        settings={"kind": "judge", "question": question, "caption_tokens": caption_tokens},
    )
    return scorer, source


def function_scorer(name: str, written: str) -> Found:
    """A user's function, written as FILE.py:function."""
    file, _, function = written.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise ScoresError(f"a scorer of your own is written as FILE.py:function, got {shown(written)}")
    data = _read(file, "--scorer")
    try:
        code = data.decode()
    except UnicodeDecodeError as error:
        raise ScoresError(f"--scorer: {one_line(file)} is not UTF-8") from error
    source = ScorerSource(kind="function", file=file, code=code, function=function)
    digest = hashlib.sha256(data).hexdigest()
    settings = {"file": Path(file).name, "function": function, "code_sha256": digest}
    return _record(name, source, settings), source


def _clip_source(kind: Any, model: Checkpoint, storage_options: dict[str, Any]) -> ScorerSource:
    return ScorerSource(
        kind=kind,
        checkpoint=model.name,
        revision=model.revision,
        weights_sha256=weights_digest(model),
        storage_options=storage_options,
    )


def _record(name: str, source: ScorerSource, settings: dict[str, Any]) -> Scorer:
    return Scorer(
        name=name,
        version=VERSIONS[source.kind],
        checkpoint=source.checkpoint or None,
        revision=source.revision,
        weights_sha256=source.weights_sha256 or None,
        settings={"kind": source.kind, **settings},
    )


def _read(path: str, option: str) -> bytes:
    """A small local file. Raises ScoresError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ScoresError(f"{option}: {one_line(path)} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ScoresError(f"{option}: {one_line(path)} must have at most {MAX_FILE_BYTES:,} bytes")
    return data
