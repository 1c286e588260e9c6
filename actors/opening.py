"""From a recipe to a loaded engine on this machine: fetch the checkpoint, make sure it is the one meant, examine it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.checkpoint.doctor import Finding, check_guidance, check_tokenizer
from actors.checkpoint.open import CheckpointError, fetch_checkpoint, open_checkpoint, weights_digest
from actors.engines import Engine, load_engine
from actors.recipe import Recipe


class OtherWeightsError(CheckpointError):
    """The checkpoint holds other weights than those the recipe was made with."""


def open_engine(recipe: Recipe, storage_options: Mapping[str, Any], *, allow_faults: bool = False) -> Engine:
    """The recipe's engine, loaded on this machine's GPU or CPU.

    Raises OtherWeightsError, or CheckpointError where the checkpoint's tokenizer or guidance is faulty (see
    `actors.checkpoint.doctor`) and faults are not allowed.
    """
    if recipe.family == "toy":
        return load_engine(recipe, None, None)
    folder = fetch_checkpoint(recipe.checkpoint, recipe.revision, storage_options)
    _check_weights(folder, recipe)
    assert recipe.prompt_format is not None, "every family but toy has one"
    if not allow_faults:
        _refuse_faults(recipe, check_tokenizer(folder, recipe.prompt_format))
    vae_folder = None
    if recipe.vae is not None:
        vae_folder = fetch_checkpoint(recipe.vae, recipe.vae_revision, storage_options)
    engine = load_engine(recipe, folder, vae_folder)
    if not allow_faults:
        _refuse_faults(recipe, check_guidance(engine))
    return engine


def _check_weights(folder: Path, recipe: Recipe) -> None:
    digest = weights_digest(open_checkpoint(str(folder), prompt_format=recipe.prompt_format))
    if digest != recipe.weights_sha256:
        raise OtherWeightsError(
            f"{recipe.checkpoint} holds other weights now: their SHA-256 is {digest}, the job was begun with "
            f"{recipe.weights_sha256}"
        )


def _refuse_faults(recipe: Recipe, findings: Iterable[Finding]) -> None:
    faults = [f"{finding.check}: {finding.detail}" for finding in findings if not finding.is_ok]
    if faults:
        raise CheckpointError(
            f"{recipe.checkpoint} is faulty ({'; '.join(faults)}). `janus-batch doctor` says more; "
            "model.allow_faults: true renders with it all the same"
        )
