"""The job file: what a person writes, checked key by key. What it resolves to is made in `jobs.job_file.resolve`."""

from __future__ import annotations

import json
import typing
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobs.job_file.cron import check_cron
from jobs.job_file.date_fields import check_date_fields, has_dates
from workflows.storage.credentials import secret_in, secret_in_address
from workflows.storage.path import check_location

# Kinds of faults: of several keys together, where the rule says it all, and of a value that must not be shown.
BETWEEN_FAULT, SECRET_FAULT = "between", "secret"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


MAX_NAME_LENGTH = 200
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class ModelSection(_Section):
    checkpoint: str = Field(
        description="Hub id, local folder or s3:// folder of a Janus, Janus-Pro or JanusFlow checkpoint, in the "
        "original or the transformers layout; or a bundled name: janus-shapes, janusflow-shapes, toy."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id; pinned to its commit.")
    prompt_format: Literal["janus", "janus-pro"] | None = Field(
        None, description="Role tags around the prompt. Found from the checkpoint's files if left out."
    )
    vae: str | None = Field(None, description="JanusFlow only: hub id, local or s3:// folder of the VAE.")
    vae_revision: str | None = Field(None, description="Branch, tag or commit of the VAE's hub id.")
    allow_faults: bool = Field(
        False, description="Render with a checkpoint whose tokenizer or guidance `janus-batch doctor` finds faulty."
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="Number format of the model. bfloat16 on GPUs and float32 on CPUs if left out.",
    )
    kv_cache: Literal["fp8"] | None = Field(
        None,
        description="Janus on a GPU of compute capability 8.9 or newer: fp8 keeps keys and values in 8 bits, which "
        "doubles the images per batch and changes codes. In `dtype` if left out.",
    )

    @field_validator("checkpoint", "vae")
    @classmethod
    def _check_location(cls, value: str | None) -> str | None:
        return value if value is None else _checked_location(value)

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: Any) -> Any:
        if value in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 is refused: the SDXL VAE overflows in it to black pictures, and the models were trained "
                "in bfloat16"
            )
        return value


class SamplingSection(_Section):
    cfg_weight: float | list[float] | None = Field(
        None,
        description="Guidance weight, 1 (unguided) to 10; higher follows the prompt more closely and varies less. "
        "5 for Janus and Janus-Pro and 2 for JanusFlow if left out. A list is a sweep: every prompt at every weight, "
        "with the same seed.",
    )
    allow_any_cfg_weight: bool = Field(False, description="Lift the limits of 1 and 10 on cfg_weight.")
    cfg_interval: list[FiniteFloat] | None = Field(
        None, description="[t0, t1] with 0 <= t0 < t1 <= 1: guide only in this part of the sampling."
    )
    temperature: FiniteFloat | None = Field(None, ge=0, description="Janus: 0 is greedy. 1.0 if left out.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="JanusFlow: 30 if left out.")
    solver: Literal["euler", "heun", "midpoint"] | None = Field(
        None, description="JanusFlow: how the flow is integrated. euler, as the reference does, if left out."
    )
    match_reference_demo: bool = Field(False, description="JanusFlow: the public demo's bfloat16 time steps.")
    images_per_prompt: int = Field(1, ge=1, le=10_000, description="Images of each prompt, each with its own seed.")
    seed: int = Field(0, ge=0, lt=2**64, description="What the images' seeds are derived from.")

    @field_validator("cfg_weight")
    @classmethod
    def _check_sweep(cls, value: Any) -> Any:
        # Six digits of a weight stand in the image's name.
        if isinstance(value, list) and (not value or len({f"{weight:g}" for weight in value}) != len(value)):
            raise ValueError("a sweep needs at least one weight and none of them twice (to six digits)")
        return value

    @field_validator("cfg_interval")
    @classmethod
    def _check_interval(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and (len(value) != 2 or not 0 <= value[0] < value[1] <= 1):
            raise ValueError("must be [t0, t1] with 0 <= t0 < t1 <= 1")
        return value

    @model_validator(mode="after")
    def _check_demo_solver(self) -> SamplingSection:
        if self.match_reference_demo and self.solver not in (None, "euler"):
            raise ValueError(f"match_reference_demo needs the demo's solver, euler, got solver {self.solver}")
        return self


class ImagesSection(_Section):
    format: Literal["png", "webp", "jpeg"] = Field("png", description="png and webp are lossless.")
    layout: Literal["files", "webdataset", "parquet"] = Field(
        "files", description="A file an image, or a pack a shard."
    )
    keep_latents: bool = Field(False, description="JanusFlow: keep each image's latents as .npy beside it.")


class WorkersSection(_Section):
    min: int = Field(1, ge=1, description="Actors to ask for at least.")
    max: int | None = Field(None, ge=1, description="Actors at most; as many as the cluster has room for if left out.")
    gpus_per_actor: FiniteFloat | None = Field(
        None, description="1, or 0 to render on CPUs. 1 if left out and there is a GPU, else 0."
    )
    batch_size: int | Literal["auto"] = Field("auto", description="Images rendered together by one actor.")
    max_tries: int = Field(
        3, ge=1, description="How often a shard may fail before its rows are bisected, or the job stops."
    )
    on_shard_failure: Literal["stop", "skip"] = Field(
        "stop", description="A shard that cannot be rendered stops the job, or is left out: exit code 1 at the end."
    )
    stall_minutes: FiniteFloat | None = Field(
        None,
        gt=0,
        description="An actor that makes no image for so long is ended. If left out: 10, or 20 times the longest "
        "wait for a batch so far if that is more.",
    )
    drain_seconds: FiniteFloat = Field(
        25.0, ge=0, description="After a SIGTERM, the time to finish the shards in flight; the job can be resumed."
    )
    storage_retry_seconds: FiniteFloat = Field(
        300, ge=0, description="How long each step of a shard retries storage that is busy or does not answer."
    )
    accelerator_type: str | None = Field(
        None,
        min_length=1,
        description="Render on this kind of GPU only, by Ray's name of it: L4, L40S, A100-80G, H100.",
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _check_gpus_per_actor(cls, value: float | None) -> float | None:
        if value not in (None, 0, 1):
            raise ValueError("must be 0 or 1: an actor renders on CPUs or on one GPU, whose whole memory it plans with")
        return value

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value


class ScheduleSection(_Section):
    """When `janus-batch schedule` runs the job."""

    cron: str = Field(
        description="When to run: `minute hour day month weekday` as cron reads them; with a sixth field in front, "
        "seconds."
    )
    time_zone: str = Field("UTC", description="Time zone of cron and of the date fields, such as Europe/Berlin.")
    when_running: Literal["skip", "queue"] = Field(
        "skip", description="If the last run still runs when the next is due: leave the next one out, or run it after."
    )
    catch_up: int = Field(
        1, ge=0, le=1000, description="Runs that may wait: missed while no scheduler ran, or queued. Older are dropped."
    )
    max_tries: int = Field(3, ge=1, description="How often a run that ends incomplete (exit code 1) is begun.")

    @pydantic.model_validator(mode="after")
    def _check_times(self) -> ScheduleSection:
        try:
            check_cron(self.cron, self.time_zone)
        except ValueError as error:
            raise _plain_error(f"schedule.cron: {error}, got {self.cron!r} in {self.time_zone}") from error
        if self.when_running == "queue" and not self.catch_up:
            raise _plain_error("schedule.catch_up: a queue (when_running) needs room for at least 1, got 0")
        return self


class JobSpec(_Section):
    """A whole job file."""

    name: str | None = Field(None, description="What people call the job; the job file's name if left out.")
    prompts: str = Field(description="A Parquet file, a glob or a folder; a local path or any fsspec URL.")
    output: str = Field(description="The output folder; a local path or any fsspec URL.")
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description="fsspec options, such as endpoint_url. Credentials come from the environment, never from here.",
    )
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    images: ImagesSection = ImagesSection()
    workers: WorkersSection = WorkersSection()
    shard_rows: int = Field(256, ge=1, le=1_000_000, description="Prompt rows of one shard.")
    schedule: ScheduleSection | None = Field(None, description="When `janus-batch schedule` runs the job.")

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or not value.isprintable() or len(value) > MAX_NAME_LENGTH):
            raise ValueError(
                f"must have 1 to {MAX_NAME_LENGTH} characters, no line breaks and no other control characters"
            )
        return value

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secret := secret_in(value):
            raise _secret_fault(secret)
        for key, option in value.items():
            if key.endswith("_kwargs") and not isinstance(option, dict):
                raise ValueError(f"{key} must be a section, with keys and values")
        if not isinstance(value.get("endpoint_url", ""), str):
            raise ValueError("endpoint_url must be text: http://HOST:PORT")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options must be text, numbers, true or false, lists and sections ({error})") from error
        return value

    @field_validator("prompts", "output")
    @classmethod
    def _check_location(cls, value: str) -> str:
        return _checked_location(value)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_empty_sections(cls, fields: Any) -> Any:
        """A section whose keys are all commented out is null in YAML: it has its defaults."""
        if not isinstance(fields, dict):
            return fields
        sections = {"storage", *(key for key, field in cls.model_fields.items() if section_of(field.annotation))}
        optional = {key for key, field in cls.model_fields.items() if field.default is None}
        empty: dict[str, Any] = {key: {} for key in sections - optional if key in fields and fields[key] is None}
        return {**fields, **empty}

    @pydantic.model_validator(mode="after")
    def _check_dates(self) -> JobSpec:
        for key, place in (("prompts", self.prompts), ("output", self.output)):
            if self.schedule is None and has_dates(place):
                raise _plain_error(
                    f"{key}: the date in {place} is a scheduled time's, and there is no schedule section"
                )
            if self.schedule is not None:
                try:
                    check_date_fields(place)
                except ValueError as error:
                    raise _plain_error(f"{key}: {error}, got {place}") from error
        return self

    @property
    def has_dates(self) -> bool:
        return has_dates(self.prompts) or has_dates(self.output)


def _checked_location(location: str) -> str:
    if secret := secret_in_address(location):
        raise _secret_fault(secret)
    check_location(location)
    return location


def _secret_fault(secret: str) -> PydanticCustomError:
    rule = f"{secret} is refused, since a job file is copied into job.json and logs"
    return PydanticCustomError(SECRET_FAULT, "{rule}; credentials come from the environment", {"rule": rule})


def _plain_error(rule: str) -> PydanticCustomError:
    """A fault between keys: the rule says all, so the section's values are not shown."""
    return PydanticCustomError(BETWEEN_FAULT, "{rule}", {"rule": rule})


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section that must or may be there; None for a key that is no section."""
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
