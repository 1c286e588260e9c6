"""From the job file to the resolved job: fills in defaults, opens and pins the checkpoint, checks the settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from actors.checkpoint.folder import BUNDLED
from actors.checkpoint.models import open_models
from actors.checkpoint.open import Checkpoint, is_family_without_checkpoint, open_checkpoint, weights_digest
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.guidance import check_cfg_weight
from actors.prompt.template import PromptTemplate
from actors.recipe import SAMPLING_SETTINGS, Adapter, Judge, Recipe, SamplingSettings, sampling_settings
from actors.understanding.ability import check_can_look
from jobs.job_file.errors import JobFileError
from jobs.job_file.looking import as_look_recipe
from jobs.job_file.sections.model import ModelSection
from jobs.job_file.spec import JobSpec
from workflows.job import Images, PromptReading, RenderJob, Workers
from workflows.prompt_files.hub import pinned
from workflows.storage.path import absolute_location, lies_among

# Sampling settings that some families take and others do not; every family takes the rest.
FAMILY_KEYS = tuple(name for name in SAMPLING_SETTINGS if any(name in facts.settings for facts in FAMILIES.values()))


Models = tuple[Checkpoint, Checkpoint | None]  # the opened checkpoint and, if its family decodes with one, the VAE


def open_models_of(spec: JobSpec) -> Models:
    """Open the models that the job file names. Raises CheckpointError."""
    model = spec.model
    if spec.task == "understand":
        return open_model_of(spec), None
    return open_models(
        model.checkpoint,
        revision=model.revision,
        prompt_format=model.prompt_format,
        prompt_template=_template_of(model),
        adapters=adapters_of(model),
        vae=model.vae,
        vae_revision=model.vae_revision,
        storage_options=spec.storage,
    )


def _open_judge(spec: JobSpec, own: Checkpoint) -> Checkpoint:
    """The checkpoint that looks at the images. Raises CheckpointError if it cannot."""
    section = spec.judge
    assert section is not None
    judge = own
    if section.checkpoint is not None:
        judge = open_checkpoint(section.checkpoint, revision=section.revision, storage_options=spec.storage)
    try:
        check_can_look(judge)
    except CheckpointError as error:
        key = "model.checkpoint" if section.checkpoint is None else "judge.checkpoint"
        raise CheckpointError(f"judge: {error}; {key} must name a checkpoint with a vision tower") from error
    return judge


def open_model_of(spec: JobSpec) -> Checkpoint:
    """Open the checkpoint that the job file names, without adapters and VAE. Raises CheckpointError."""
    model = spec.model
    return open_checkpoint(
        model.checkpoint,
        revision=model.revision,
        prompt_format=model.prompt_format,
        prompt_template=_template_of(model),
        storage_options=spec.storage,
    )


def resolve(spec: JobSpec, *, num_gpus: int, with_digest: bool = True, models: Models | None = None) -> RenderJob:
    """Everything that a render needs, as `job.json` records it.

    `num_gpus`, the GPUs of the cluster, decides what the job file leaves open. Without `with_digest` no weights are
    read, for a plan. `models` are those of the job file if the caller has opened them. Raises JobFileError,
    CheckpointError or StorageError.
    """
    models = models or open_models_of(spec)
    check_family_settings(spec, models[0].family)
    prompts, output = pinned(absolute_location(spec.prompts, "prompts")), absolute_location(spec.output, "output")
    _check_output(prompts, output)
    workers = workers_of(spec, num_gpus)
    default_dtype = "bfloat16" if workers.gpus_per_actor else "float32"
    recipe = recipe_of(spec, models, default_dtype=default_dtype, with_digest=with_digest)
    if spec.task == "understand":
        recipe = as_look_recipe(recipe, spec, models[0], prompts)
    return RenderJob(
        name=spec.name or "render",
        prompts=prompts,
        output=output,
        storage=dict(spec.storage),
        recipe=recipe,
        images=Images(**spec.images.model_dump()),
        workers=workers,
        shard_rows=spec.shard_rows,
        allow_faults=spec.model.allow_faults,
        notes=(*_notes_on_files(models), *_notes_on_tags(models[0])),
        reading=_reading(spec),
    )


def adapters_of(model: ModelSection) -> tuple[Adapter, ...]:
    """The adapters of a job file that means one model; `jobs.job_file.sweep` makes such ones of a sweep.

    Raises JobFileError for a sweep.
    """
    variants = model.adapter or [[]]
    if len(variants) > 1:
        raise JobFileError(
            f"model.adapter: a sweep of {len(variants)} models has an output for each; `janus-batch render` and "
            "`janus-batch plan` take it. Choose one with --set model.adapter=NAME"
        )
    return tuple(Adapter(**section.model_dump()) for section in variants[0])


def _protocol_of(spec: JobSpec, checkpoint: Checkpoint) -> str | None:
    """The protocol that the job file names, or that of a known model."""
    if spec.model.protocol is not None:
        return None if spec.model.protocol == "none" else spec.model.protocol
    model = checkpoint.origin and checkpoint.origin.model
    return model.protocol if model else None


def _template_of(model: ModelSection) -> PromptTemplate | None:
    return None if model.prompt_template is None else PromptTemplate(**model.prompt_template.model_dump())


def _reading(spec: JobSpec) -> PromptReading:
    prompt: dict[str, str | None] = {} if spec.prompt_column is None else {"prompt": spec.prompt_column}
    return PromptReading(
        reads_images=spec.task == "understand",
        columns=prompt | spec.columns,
        csv_delimiter=spec.csv.delimiter,
        csv_header=spec.csv.header,
        where=spec.where,
        deduplicate=spec.deduplicate,
        sample=spec.sample,
        sample_seed=spec.sample_seed,
        limit=spec.limit,
    )


def recipe_of(spec: JobSpec, models: Models, *, default_dtype: str, with_digest: bool) -> Recipe:
    """The recipe of a job file with these opened models. Raises JobFileError and CheckpointError."""
    model, (checkpoint, vae) = spec.model, models
    return Recipe(
        family=checkpoint.family,
        checkpoint=absolute_model_name(checkpoint.name),
        revision=checkpoint.revision,
        weights_sha256=weights_digest(checkpoint) if with_digest else "",
        prompt_format=checkpoint.prompt_format,
        prompt_template=checkpoint.prompt_template,
        protocol=_protocol_of(spec, checkpoint),
        adapters=tuple(
            Adapter(
                name=absolute_model_name(adapter.name),
                revision=adapter.revision,
                sha256=weights_digest(adapter),
                weight=weight,
            )
            for adapter, weight in checkpoint.adapters
        ),
        vae=absolute_model_name(vae.name) if vae else None,
        vae_revision=vae.revision if vae else None,
        vae_sha256=weights_digest(vae) if vae and with_digest else None,
        dtype=model.dtype or default_dtype,
        kv_cache=model.kv_cache,
        sampler=FAMILIES[checkpoint.family].sampler,
        judge=_judge(spec, checkpoint, with_digest=with_digest),
        **_sampling_fields(spec, checkpoint.family),
    )


def _judge(spec: JobSpec, own: Checkpoint, *, with_digest: bool) -> Judge | None:
    if (section := spec.judge) is None:
        return None
    model = _open_judge(spec, own)
    is_same = (model.name, model.revision) == (own.name, own.revision)
    return Judge(
        question=section.question,
        best_of=section.best_of,
        retry_below=section.retry_below,
        max_tries=section.num_tries,
        caption_tokens=section.caption_tokens if section.caption else None,
        family=model.family,
        checkpoint=absolute_model_name(model.name),
        revision=model.revision,
        weights_sha256=weights_digest(model) if with_digest else "",
        prompt_format=model.prompt_format,
        is_own=section.checkpoint is None or (is_same and not own.adapters),
        looker=FAMILIES[model.family].looker_version,
    )


def workers_of(spec: JobSpec, num_gpus: int) -> Workers:
    """The actors that a job file asks for, on a cluster with this many GPUs."""
    section = spec.workers
    return Workers(
        min=section.min,
        max=section.max,
        gpus_per_actor=min(num_gpus, 1) if section.gpus_per_actor is None else section.gpus_per_actor,
        accelerator_type=section.accelerator_type,
        batch_size=None if isinstance(section.batch_size, str) else section.batch_size,
        max_tries=section.max_tries,
        storage_retry_seconds=section.storage_retry_seconds,
        on_shard_failure=section.on_shard_failure,
        stall_minutes=section.stall_minutes,
        drain_seconds=section.drain_seconds,
    )


def remarks(job: RenderJob) -> list[str]:
    """What may be a mistake, one line each; none of it stops the job."""
    return [*_remarks_on_weights(job), *job.notes]


def _notes_on_files(models: Models) -> Iterator[str]:
    """Weight files that were passed over."""
    checkpoint, vae = models
    for model in (checkpoint, *(adapter for adapter, _ in checkpoint.adapters), vae):
        if model and model.note:
            yield model.note


def _notes_on_tags(checkpoint: Checkpoint) -> list[str]:
    origin = checkpoint.origin
    if origin is None or origin.evidence:
        return []
    hint = f"; {origin.hint}" if origin.hint else ""
    return [
        f"the role tags {checkpoint.template.roles} are a guess: they are those of Janus-Pro, and a model that was "
        f"trained further from it may have others{hint}. `janus-batch doctor {checkpoint.name}` compares them, and "
        "model.prompt_format sets them"
    ]


def _remarks_on_weights(job: RenderJob) -> list[str]:
    default = FAMILIES[job.recipe.family].default_cfg_weight
    return [
        f"cfg_weight {facts.default_cfg_weight:g} is the default of {family}; the default of {job.recipe.family} is "
        f"{default:g}"
        for family, facts in FAMILIES.items()
        if not is_family_without_checkpoint(family)
        and facts.default_cfg_weight != default
        and job.recipe.cfg_weights == (facts.default_cfg_weight,)
    ]


def check_family_settings(spec: JobSpec, family: str) -> None:
    """Refuse a setting of another family by name, with the settings this one takes."""
    facts = FAMILIES[family]
    takes = facts.settings
    for key in FAMILY_KEYS:
        value = getattr(spec.sampling, key)
        if key not in takes and value not in (None, False):
            raise JobFileError(
                f"sampling.{key}: {family} does not take it, got {value!r}; in addition to cfg_weight, cfg_interval, "
                f"images_per_prompt and seed it takes {', '.join(takes)}"
            )
    if spec.model.kv_cache is not None and not facts.has_kv_cache:
        raise JobFileError(f"model.kv_cache: {family} keeps no cache from step to step, got {spec.model.kv_cache!r}")
    if spec.model.prompt_template is not None and facts.default_prompt_format is None:
        raise JobFileError(f"model.prompt_template: {family} puts no text around a prompt")
    if spec.model.protocol not in (None, "none") and not facts.writes_text:
        raise JobFileError(f"model.protocol: {family} writes no text before an image, got {spec.model.protocol!r}")
    if spec.model.vae is not None and not facts.decodes_with_vae:
        raise JobFileError(f"model.vae: {family} decodes without a VAE, got {spec.model.vae!r}")
    if spec.images.keep_latents and facts.keeps != "latents":
        raise JobFileError(f"images.keep_latents: images of {family} have {facts.keeps} and no latents")


def _sampling_fields(spec: JobSpec, family: str) -> dict[str, Any]:
    """The recipe's sampling settings: the job's where it has them, the family's defaults where not."""
    sampling, facts = spec.sampling, FAMILIES[family]
    written = facts.default_cfg_weight if sampling.cfg_weight is None else sampling.cfg_weight
    weights = tuple(float(weight) for weight in (written if isinstance(written, list) else [written]))
    for weight in weights:
        try:
            check_cfg_weight(weight, allow_any=sampling.allow_any_cfg_weight)
        except ValueError as error:
            raise JobFileError(f"sampling.cfg_weight: {error}") from error
    settings = sampling_settings(SamplingSettings()) | dict(facts.settings)
    for name in SAMPLING_SETTINGS:
        value = getattr(sampling, name)
        if value is not None:
            settings[name] = tuple(value) if isinstance(value, list) else value
    return {
        "cfg_weights": weights,
        "images_per_prompt": sampling.images_per_prompt,
        "seed": sampling.seed,
        "allow_any_cfg_weight": sampling.allow_any_cfg_weight,
        **settings,
    }


def _check_output(prompts: str, output: str) -> None:
    """Refuse an output inside the prompts: a resume would read its manifest as prompts."""
    if lies_among(output, prompts):
        raise JobFileError(f"output: must not be inside the prompts ({prompts}), got {output}")


def absolute_model_name(name: str) -> str:
    """A local folder by its full path; bundled names, hub ids, URLs and families without checkpoints unchanged."""
    is_a_name = "://" in name or name.removesuffix("/vae") in BUNDLED or is_family_without_checkpoint(name)
    if is_a_name or not os.path.exists(os.path.expanduser(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))
