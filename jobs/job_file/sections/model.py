"""Which model renders: checkpoint, adapters, the text around a prompt."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.prompt.template import TEMPLATES
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, BOS
from jobs.job_file.sections.base import FiniteFloat, Section, checked_location

MAX_TEMPLATE_LENGTH = 10_000
NO_ADAPTER = "none"  # in a sweep: the model as it is


class TemplateSection(Section):
    """The text around a prompt, see `actors.prompt.template.PromptTemplate`."""

    prefix: str = Field(
        description="In place of prompt_format, the whole text around a prompt: here the text before it. Or give the "
        f"name of a template in place of the section: {', '.join(TEMPLATES)}."
    )
    suffix: str = Field(description="Text after the prompt, before the image.")
    system_prompt: str = Field("", description="Text in front of it all, followed by a blank line.")
    unconditional: Literal["pads", "empty"] = Field(
        "pads",
        description="What guidance subtracts: a row of pads, or the template around an empty prompt.",
    )

    @field_validator("prefix", "suffix", "system_prompt")
    @classmethod
    def _check_text(cls, value: str) -> str:
        for token in (BOS, BEGIN_OF_IMAGE):
            if token in value:
                raise ValueError(f"must not hold {token}, which the engine adds")
        if len(value) > MAX_TEMPLATE_LENGTH:
            raise ValueError(f"must have at most {MAX_TEMPLATE_LENGTH:,} characters, it has {len(value):,}")
        return value


class AdapterSection(Section):
    """A LoRA adapter and the factor of what it adds."""

    name: str = Field(description="Hub id, local folder or s3:// folder of a LoRA adapter as PEFT saves it.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    weight: FiniteFloat = Field(1.0, description="The factor of what the adapter adds.")

    @field_validator("name")
    @classmethod
    def _check_location(cls, value: str) -> str:
        return checked_location(value)


class ModelSection(Section):
    checkpoint: str = Field(
        description="Hub id, local folder or s3:// folder of a Janus, Janus-Pro or JanusFlow checkpoint, in the "
        "original or the transformers layout; or a bundled name: janus-shapes, janusflow-shapes, toy."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id; pinned to its commit.")
    prompt_format: Literal["janus", "janus-pro"] | None = Field(
        None, description="Role tags around the prompt. Default: read from the checkpoint's files."
    )
    prompt_template: TemplateSection | None = Field(None, description="The text around a prompt, or its name.")
    protocol: Literal["none", "t2i-r1", "got-r1", "reasongen-r1"] | None = Field(
        None,
        description="The text that the model writes before each image, stored in the manifest as `reasoning`. Default: "
        "that of a known model which was trained to write one, else none.",
    )
    adapter: list[list[AdapterSection]] | None = Field(
        None,
        json_schema_extra={"kind": "text, keys and values, or a list of them"},
        description="LoRA adapters as PEFT saves them, merged into the weights: a hub id or folder; a section with "
        "name, weight and revision; or a list of such sections, merged together. A list of names is a sweep: "
        "`[none, a, b]` renders the same seeds without and with each adapter, into a folder of the output for each.",
    )
    vae: str | None = Field(None, description="JanusFlow only: hub id, local or s3:// folder of the VAE.")
    vae_revision: str | None = Field(None, description="Branch, tag or commit of the VAE's hub id.")
    allow_faults: bool = Field(
        False, description="Render with a checkpoint whose tokenizer or guidance `janus-batch doctor` finds faulty."
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="dtype of the model. Default: bfloat16 on GPUs, float32 on CPUs.",
    )
    kv_cache: Literal["fp8"] | None = Field(
        None,
        description="Janus on a GPU of compute capability 8.9 or newer: fp8 keeps keys and values in 8 bits, which "
        "doubles the images per batch and changes codes. Default: `dtype`.",
    )

    @field_validator("adapter", mode="before")
    @classmethod
    def _list_variants(cls, value: Any) -> Any:
        """The models of a sweep, each a list of sections; one of them where there is no sweep."""
        if value is None:
            return None
        if isinstance(value, str | dict):
            return [_sections_of(value)]
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return [value]
        if not isinstance(value, list) or not value:
            raise ValueError("must be a name, a section with name and weight, or a list of them")
        return [_sections_of(item) for item in value]

    @field_validator("prompt_template", mode="before")
    @classmethod
    def _find_template(cls, value: Any) -> Any:
        """The section of a template that is given by its name."""
        if not isinstance(value, str):
            return value
        if value not in TEMPLATES:
            raise ValueError(f"must be a section with prefix and suffix, or one of {', '.join(TEMPLATES)}")
        return dataclasses.asdict(TEMPLATES[value])

    @model_validator(mode="after")
    def _check_one_template(self) -> ModelSection:
        if self.prompt_format and self.prompt_template:
            raise ValueError("prompt_template is the whole text around a prompt: leave out prompt_format")
        return self

    @field_validator("checkpoint", "vae")
    @classmethod
    def _check_location(cls, value: str | None) -> str | None:
        return value if value is None else checked_location(value)

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: Any) -> Any:
        if value in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 is refused: the SDXL VAE overflows in float16 and decodes black images; the models were "
                "trained in bfloat16"
            )
        return value


def _sections_of(item: Any) -> Any:
    """The adapters of one model of a sweep: a name, a section, a list of both, or none."""
    if item is None or item == NO_ADAPTER:
        return []
    if isinstance(item, str):
        return [{"name": item}]
    return [{"name": part} if isinstance(part, str) else part for part in item] if isinstance(item, list) else [item]
