"""From a recipe to a loaded engine on this machine. Importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from actors.checkpoint.doctor import Finding, Use, check_guidance, check_tokenizer
from actors.checkpoint.models import open_models
from actors.checkpoint.open import (
    Checkpoint,
    check_digest,
    fetch_checkpoint,
    is_family_without_checkpoint,
    open_checkpoint,
)
from actors.errors import CheckpointError, DeviceFullError, is_out_of_memory, reason_line
from actors.families import FAMILIES
from actors.recipe import Look, Recipe
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.understanding.engine import LookingEngine
from actors.understanding.judging import Looker


class Engine(Protocol):
    """The interface of an engine. There is no base class: every family's class has these members.

    An engine that overlaps batches also has `stream(batches)`: one list of answers per batch, in order. It takes the
    next batch, if there is one, before it returns the answers to the one before.

    An engine of a family with checkpoints also has `predict(prompt)`: the conditional and the unconditional prediction
    that guidance begins with, two tensors of one shape, and `is_decoder_finite()`: whether the numbers of one decoded
    image are finite, and `seconds_per_batch(request)`: an estimate for a batch of the default size. If the family has
    models of several templates, `probe_template(template, requests)`: the entropy of its predictions and the effect of
    guidance under a template. These are for `actors.checkpoint.doctor`. `text_model()` is its language model, which
    `actors.understanding` shares.
    """

    device: str  # as the manifest has it: "cpu AVX2" or the GPU's name
    default_batch_size: int

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered (a prompt longer than the model's context, say), or None."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order. An image's bytes do not depend on the other requests."""


def open_engine(recipe: Recipe, storage_options: Mapping[str, Any], *, allow_faults: bool = False) -> Engine:
    """Open the recipe's checkpoint and start its engine, see `start_engine` and `open_looking_engine`."""
    if recipe.look is not None:
        return open_looking_engine(recipe, recipe.look, storage_options)
    checkpoint, vae = open_models(
        recipe.checkpoint,
        revision=recipe.revision,
        prompt_format=recipe.prompt_format,
        prompt_template=recipe.prompt_template,
        adapters=recipe.adapters,
        vae=recipe.vae,
        vae_revision=recipe.vae_revision,
        storage_options=storage_options,
    )
    return start_engine(recipe, checkpoint, vae, allow_faults=allow_faults)


def open_looking_engine(recipe: Recipe, look: Look, storage_options: Mapping[str, Any]) -> Engine:
    """The engine of a job that looks at images: the parts of its checkpoint that do. Raises CheckpointError."""
    looker_class = FAMILIES[recipe.family].load_looker_class()
    if is_family_without_checkpoint(recipe.family):
        return cast("Engine", LookingEngine(looker_class(), look))
    checkpoint = fetch_checkpoint(
        open_checkpoint(
            recipe.checkpoint,
            revision=recipe.revision,
            prompt_format=recipe.prompt_format,
            prompt_template=recipe.prompt_template,
            storage_options=storage_options,
        )
    )
    check_digest(checkpoint, recipe.weights_sha256)
    _refuse_unfit_to_look(checkpoint, "looking", "rendering")
    return cast("Engine", LookingEngine(looker_class(checkpoint, dtype=recipe.dtype), look))


def start_engine(
    recipe: Recipe, checkpoint: Checkpoint, vae: Checkpoint | None, *, allow_faults: bool = False
) -> Engine:
    """The recipe's engine from opened models: fetch them, check their digests, examine them, load them.

    Raises OtherWeightsError, or CheckpointError where the tokenizer, the guidance or a number of the checkpoint is
    faulty (see `actors.checkpoint.doctor`) and faults are not allowed.
    """
    if checkpoint.folder is None:
        return load_engine(recipe)
    models = [fetch_checkpoint(model) for model in (checkpoint, vae) if model is not None]
    for model, expected in zip(models, (recipe.weights_sha256, recipe.vae_sha256), strict=False):
        check_digest(model, expected)
    for (adapter, _), recorded in zip(models[0].adapters, recipe.adapters, strict=True):
        check_digest(adapter, recorded.sha256)
    if not allow_faults:
        _refuse_faults(recipe, [*check_tokenizer(models[0]), *_values(models, "rendering")])
    engine = load_engine(recipe, *models)
    if not allow_faults:
        _refuse_faults(recipe, check_guidance(engine))
    return engine


def _values(models: Iterable[Checkpoint], *uses: Use) -> Iterator[Finding]:
    from actors.checkpoint.values import check_values  # loads torch

    for model in models:
        yield from check_values(model, uses)


def _refuse_unfit_to_look(checkpoint: Checkpoint, *uses: Use) -> None:
    """Raise CheckpointError for numbers with which no answer would be one."""
    for finding in _values([checkpoint], *uses):
        if not finding.is_ok:
            raise CheckpointError(f"{checkpoint.name} cannot look at images: {finding.detail}")


def load_engine(recipe: Recipe, *models: Checkpoint) -> Engine:
    """The recipe's engine on the first visible GPU, or on the CPU.

    `models` are the fetched checkpoint and, if the family decodes with one, the fetched VAE; none for a family without
    checkpoints. Raises CheckpointError, and DeviceFullError where other programs leave too little memory.
    """
    if models and models[0].family != recipe.family:
        raise CheckpointError(
            f"{models[0].name} holds a {models[0].family} model, the job was begun with one of {recipe.family}"
        )
    engine_class = FAMILIES[recipe.family].load_engine_class()
    try:
        return cast("Engine", engine_class(recipe, *models))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceFullError(
            f"{recipe.checkpoint} does not fit into the memory that is free on this machine: {reason_line(error)}"
        ) from error


def _refuse_faults(recipe: Recipe, findings: Iterable[Finding]) -> None:
    faults = [f"{finding.check}: {finding.detail}" for finding in findings if not finding.is_ok]
    if faults:
        raise CheckpointError(
            f"{recipe.checkpoint} is faulty ({'; '.join(faults)}). `janus-batch doctor` shows every check; "
            "model.allow_faults: true renders with it anyway"
        )


def open_engine_and_looker(
    recipe: Recipe, storage_options: Mapping[str, Any], *, allow_faults: bool = False
) -> tuple[Engine, Looker | None]:
    """The recipe's engine, and the looker of its judge if it has one.

    Another checkpoint as the judge is loaded first, because an engine takes most of a GPU's free memory for its cache.
    Raises DeviceFullError if there is not enough memory for both.
    """
    judge = recipe.judge
    if judge is None or judge.is_own:
        engine = open_engine(recipe, storage_options, allow_faults=allow_faults)
        return engine, open_looker(recipe, storage_options, engine)
    try:
        looker = open_looker(recipe, storage_options)
        return open_engine(recipe, storage_options, allow_faults=allow_faults), looker
    except Exception as error:
        if not isinstance(error, DeviceFullError) and not is_out_of_memory(error):
            raise
        raise DeviceFullError(
            f"{recipe.checkpoint} and its judge {judge.checkpoint} do not fit into this machine's memory together; use "
            f"a smaller judge or a larger machine, or leave out judge.checkpoint: {reason_line(error)}"
        ) from error


def open_looker(recipe: Recipe, storage_options: Mapping[str, Any], engine: Engine | None = None) -> Looker | None:
    """The looker of the recipe's judge on the first visible GPU, or on the CPU; None if the recipe has no judge.

    `engine` is the recipe's engine, whose language model its own judge shares. Raises CheckpointError.
    """
    judge = recipe.judge
    if judge is None:
        return None
    looker_class = FAMILIES[judge.family].load_looker_class()
    if is_family_without_checkpoint(judge.family):
        return cast("Looker", looker_class())
    checkpoint = fetch_checkpoint(
        open_checkpoint(
            judge.checkpoint,
            revision=judge.revision,
            prompt_format=judge.prompt_format,
            prompt_template=recipe.prompt_template if judge.is_own else None,
            storage_options=storage_options,
        )
    )
    check_digest(checkpoint, judge.weights_sha256)
    _refuse_unfit_to_look(checkpoint, "looking")
    llama = cast("Any", engine).text_model() if engine is not None and judge.is_own else None
    return cast("Looker", looker_class(checkpoint, dtype=recipe.dtype, llama=llama))
