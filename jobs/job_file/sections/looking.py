"""What is asked about images: about those of the job, or about others in a job with `task: understand`."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from actors.recipe import CAPTION_QUESTION, CAPTION_TOKENS, PROMPT_FIELD
from jobs.job_file.sections.base import FiniteFloat, Section, checked_location, plain_error

DEFAULT_QUESTION = f"Does this image show {PROMPT_FIELD}? Answer yes or no."
DEFAULT_MAX_TRIES = 3
MAX_CANDIDATES = 256  # of one image
SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^<>]*[|\uff5c]>|<image_placeholder>|<(begin|end)_of_image>")


class JudgeSection(Section):
    """How the job looks at its images."""

    question: str = Field(
        DEFAULT_QUESTION,
        max_length=2000,
        description="What the model is asked about each image; its probability of yes is the score. `{prompt}` is the "
        "image's prompt, and may be left out.",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=64,
        description="Candidates per image, each with its own seed; the one with the highest score is kept.",
    )
    retry_below: FiniteFloat | None = Field(
        None,
        gt=0,
        le=1,
        description="Re-roll an image whose best candidate scores lower: `best_of` more candidates, with the seeds "
        "that follow. The best of all is kept.",
    )
    max_tries: int | None = Field(
        None, ge=2, le=64, description="The most tries of an image with `retry_below`. Default: 3."
    )
    caption: bool = Field(False, description="Also write what the model sees in the kept image.")
    caption_tokens: int = Field(64, ge=1, le=512, description="The longest caption, in tokens.")
    checkpoint: str | None = Field(
        None, description="Another Janus, Janus-Pro or JanusFlow checkpoint as the judge. Default: the job's own."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the judge's hub id.")

    @field_validator("question")
    @classmethod
    def _check_question(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        if field := next((field for field in re.findall(r"\{\w*\}", value) if field != PROMPT_FIELD), None):
            raise ValueError(f"its only field is {PROMPT_FIELD}, got {field}")
        if token := SPECIAL_TOKEN.search(value):
            raise ValueError(f"must not contain a model's special token, got {token[0]}")
        return value

    @field_validator("checkpoint")
    @classmethod
    def _check_location(cls, value: str | None) -> str | None:
        return value if value is None else checked_location(value)

    @model_validator(mode="after")
    def _check_keys(self) -> JudgeSection:
        if self.max_tries is not None and self.retry_below is None:
            raise plain_error(f"judge.max_tries: needs judge.retry_below, got {self.max_tries}")
        if self.num_tries * self.best_of > MAX_CANDIDATES:
            raise plain_error(
                f"judge.best_of: best_of x max_tries must be at most {MAX_CANDIDATES} candidates per image, got "
                f"{self.best_of} x {self.num_tries}"
            )
        if self.revision is not None and self.checkpoint is None:
            raise plain_error(
                f"judge.revision: needs judge.checkpoint, got {self.revision!r}; the job's own checkpoint has "
                "model.revision"
            )
        return self

    @property
    def num_tries(self) -> int:
        """The most tries of an image."""
        return 1 if self.retry_below is None else self.max_tries or DEFAULT_MAX_TRIES


class UnderstandSection(Section):
    """How a job with `task: understand` looks at images."""

    question: str = Field(
        CAPTION_QUESTION, max_length=2000, description="What is asked about an image whose row has no question."
    )
    max_tokens: int = Field(CAPTION_TOKENS, ge=1, le=2048, description="The longest answer, in tokens.")
    score: bool = Field(
        False,
        description="Also write the probability of yes for every question. Default: where it contains `yes or no`.",
    )
    root: str | None = Field(
        None,
        description="The folder that relative locations of images refer to. Default: that of the prompt files, or the "
        "output whose manifest they are.",
    )

    @field_validator("question")
    @classmethod
    def _check_question(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("root")
    @classmethod
    def _check_location(cls, value: str | None) -> str | None:
        return value if value is None else checked_location(value)
