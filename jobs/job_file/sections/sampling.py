"""How images are sampled, and how their files are written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.job_file.sections.base import FiniteFloat, Section


class SamplingSection(Section):
    cfg_weight: float | list[float] | None = Field(
        None,
        description="Guidance weight from 1 (unguided) to 10. A higher weight follows the prompt more closely and "
        "varies less. Default: 5 for Janus and Janus-Pro, 2 for JanusFlow. A list is a sweep: every prompt at every "
        "weight, with the same seed.",
    )
    allow_any_cfg_weight: bool = Field(False, description="Allow a cfg_weight below 1 or above 10.")
    cfg_interval: list[FiniteFloat] | None = Field(
        None, description="[t0, t1] with 0 <= t0 < t1 <= 1: guide in this part of sampling only."
    )
    temperature: FiniteFloat | None = Field(None, ge=0, description="Janus: 0 is greedy. Default: 1.0.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="JanusFlow: solver steps. Default: 30.")
    solver: Literal["euler", "heun", "midpoint"] | None = Field(
        None, description="JanusFlow: solver of the flow. Default: euler, as in the reference."
    )
    match_reference_demo: bool = Field(False, description="JanusFlow: use the bfloat16 time steps of the public demo.")
    images_per_prompt: int = Field(1, ge=1, le=10_000, description="Images per prompt, each with its own seed.")
    seed: int = Field(0, ge=0, lt=2**64, description="The seed of the job, from which every image's seed is derived.")

    @field_validator("cfg_weight")
    @classmethod
    def _check_sweep(cls, value: Any) -> Any:
        # An image's name contains its weight with six digits.
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


class ImagesSection(Section):
    format: Literal["png", "webp", "jpeg"] = Field("png", description="png and webp are lossless.")
    layout: Literal["files", "webdataset", "parquet"] = Field(
        "files", description="files: one file per image. webdataset, parquet: one file per shard."
    )
    keep_latents: bool = Field(False, description="JanusFlow: store each image's latents as .npy next to it.")
