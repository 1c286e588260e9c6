"""From the job file to the resolved job: defaults filled in, the checkpoint found and pinned, settings checked."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from typing import Any

from actors.checkpoint.folder import BUNDLED
from actors.checkpoint.open import Checkpoint, open_checkpoint, open_vae, weights_digest
from actors.families import FAMILIES
from actors.guidance import check_cfg_weight
from actors.recipe import SAMPLING_SETTINGS, Recipe, SamplingSettings, sampling_settings
from jobs.job_file.spec import JobFileError, JobSpec
from workflows.job import Images, RenderJob, Workers
from workflows.storage.store import absolute_location

# Sampling settings that some families take and others do not; every family takes the rest.
FAMILY_KEYS = tuple(name for name in SAMPLING_SETTINGS if any(name in facts.settings for facts in FAMILIES.values()))


def resolve(spec: JobSpec, *, num_gpus: int, with_digest: bool = True) -> RenderJob:
    """Everything a render needs, settled once: what stands in `job.json` afterwards.

    `num_gpus` of the cluster decides where the job file leaves it open. Without `with_digest` the weights are not
    read, for a plan. Raises JobFileError, CheckpointError or StorageError.
    """
    model, storage = spec.model, spec.storage
    checkpoint = open_checkpoint(
        model.checkpoint, revision=model.revision, storage_options=storage, prompt_format=model.prompt_format
    )
    _check_family_settings(spec, checkpoint.family)
    vae = _find_vae(spec, checkpoint)
    gpus = spec.workers.gpus_per_actor if spec.workers.gpus_per_actor is not None else min(num_gpus, 1)
    recipe = Recipe(
        family=checkpoint.family,
        checkpoint=settled_model(model.checkpoint),
        revision=checkpoint.revision,
        weights_sha256=weights_digest(checkpoint, storage) if with_digest else "",
        prompt_format=checkpoint.prompt_format,
        vae=settled_model(vae.name) if vae else None,
        vae_revision=vae.revision if vae else None,
        vae_sha256=weights_digest(vae, storage) if vae and with_digest else None,
        dtype=model.dtype or ("bfloat16" if gpus else "float32"),
        sampler=FAMILIES[checkpoint.family].sampler,
        **_sampling_fields(spec, checkpoint.family),
    )
    batch_size = spec.workers.batch_size
    workers = Workers(
        min=spec.workers.min,
        max=spec.workers.max,
        gpus_per_actor=gpus,
        accelerator_type=spec.workers.accelerator_type,
        batch_size=None if isinstance(batch_size, str) else batch_size,
        max_tries=spec.workers.max_tries,
        storage_retry_seconds=spec.workers.storage_retry_seconds,
        on_shard_failure=spec.workers.on_shard_failure,
        stall_minutes=spec.workers.stall_minutes,
        drain_seconds=spec.workers.drain_seconds,
    )
    _check_output(absolute_location(spec.prompts), absolute_location(spec.output))
    return RenderJob(
        name=spec.name or "render",
        prompts=absolute_location(spec.prompts),
        output=absolute_location(spec.output),
        storage=dict(storage),
        recipe=recipe,
        images=Images(**spec.images.model_dump()),
        workers=workers,
        shard_rows=spec.shard_rows,
        allow_faults=model.allow_faults,
    )


def remarks(job: RenderJob) -> list[str]:
    """What a person may not have meant, one line each; nothing here stops the job."""
    lines = []
    default = FAMILIES[job.recipe.family].default_cfg_weight
    for family, facts in FAMILIES.items():
        is_others = family not in (job.recipe.family, "toy") and facts.default_cfg_weight != default
        if is_others and job.recipe.cfg_weights == (facts.default_cfg_weight,):
            lines.append(
                f"cfg_weight {facts.default_cfg_weight:g} is the default of {family}; the default of "
                f"{job.recipe.family} is {default:g}"
            )
    return lines


def ignored_columns(family: str) -> list[str]:
    """Setting columns of a prompt file that this family does not read; another family's job may share the file."""
    return [key for key in ("temperature", "num_inference_steps") if key not in FAMILIES[family].settings]


def _check_family_settings(spec: JobSpec, family: str) -> None:
    """Refuse a setting of another family by name, with the settings this one takes."""
    takes = FAMILIES[family].settings
    for key in FAMILY_KEYS:
        value = getattr(spec.sampling, key)
        if key not in takes and value not in (None, False):
            raise JobFileError(
                f"sampling.{key}: {family} does not take it, got {value!r}; beside cfg_weight, cfg_interval, "
                f"images_per_prompt and seed it takes {', '.join(takes)}"
            )
    dtypes = FAMILIES[family].dtypes
    if spec.model.dtype not in (None, *dtypes):
        raise JobFileError(f"model.dtype: {family} runs in {' or '.join(dtypes)}, got {spec.model.dtype}")
    if spec.model.vae is not None and family != "janusflow":
        raise JobFileError(f"model.vae: only janusflow decodes with a VAE, the checkpoint is of family {family}")
    if spec.images.keep_latents and family != "janusflow":
        raise JobFileError(f"images.keep_latents: only janusflow has latents, the checkpoint is of family {family}")


def _find_vae(spec: JobSpec, checkpoint: Checkpoint) -> Checkpoint | None:
    if checkpoint.family != "janusflow":
        return None
    return open_vae(spec.model.vae, checkpoint, revision=spec.model.vae_revision, storage_options=spec.storage)


def _sampling_fields(spec: JobSpec, family: str) -> dict[str, Any]:
    """The recipe's sampling settings: the job's where it has them, the family's defaults where not."""
    sampling, facts = spec.sampling, FAMILIES[family]
    wished = facts.default_cfg_weight if sampling.cfg_weight is None else sampling.cfg_weight
    weights = tuple(float(weight) for weight in (wished if isinstance(wished, list) else [wished]))
    for weight in weights:
        try:
            check_cfg_weight(weight, allow_any=sampling.allow_any_cfg_weight)
        except ValueError as error:
            raise JobFileError(f"sampling.cfg_weight: {error}") from error
    settings = sampling_settings(SamplingSettings()) | facts.settings
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
    """Refuse an output among the prompts: a resume would take its manifest for prompts."""
    is_inside = f"{output}/".startswith(f"{prompts}/")
    if is_inside or ("**" in prompts and fnmatch(f"{output}/manifest/part.parquet", prompts)):
        raise JobFileError(f"output: must not lie among the prompts ({prompts}), got {output}")


def settled_model(name: str) -> str:
    """The same for a model: a local folder by its full path; bundled names, hub ids and URLs as they are."""
    if "://" in name or name.removesuffix("/vae") in ("toy", *BUNDLED) or not os.path.exists(os.path.expanduser(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))
