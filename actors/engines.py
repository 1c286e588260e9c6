"""From a recipe to a loaded engine on this machine. Importing this module imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from actors.checkpoint.doctor import Finding, check_guidance, check_tokenizer
from actors.checkpoint.open import fetch_checkpoint, open_checkpoint, weights_digest
from actors.errors import CheckpointError, OtherWeightsError
from actors.families import FAMILIES
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage


class Engine(Protocol):
    """What the actor needs of an engine. Each family's class has these and shares no base class."""

    device: str  # as written to the manifest: "cpu" or the GPU's name
    default_batch_size: int

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered (a prompt longer than the model's context, say), or None."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order. An image's bytes do not depend on the other requests."""


def load_engine(recipe: Recipe, folder: Path | None, vae_folder: Path | None) -> Engine:
    """Build the recipe's engine from checkpoint folders that lie on this machine's disk (None for the toy engine).

    The device is the first visible GPU, or the CPU. Raises CheckpointError with the reason.
    """
    module_name, class_name = FAMILIES[recipe.family].engine.split(":")
    engine_class: Callable[..., Engine] = getattr(importlib.import_module(module_name), class_name)
    if recipe.family == "toy":
        return engine_class(recipe)
    return engine_class(recipe, folder) if vae_folder is None else engine_class(recipe, folder, vae_folder)


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
