"""A whole job file as a pydantic model. `jobs.job_file.resolve` turns it into a job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.job_file.command_secrets import secret_in_command
from jobs.job_file.date_fields import check_date_fields, has_dates
from jobs.job_file.sections.base import Section, checked_location, plain_error, secret_fault, section_of
from jobs.job_file.sections.looking import JudgeSection, UnderstandSection
from jobs.job_file.sections.model import ModelSection
from jobs.job_file.sections.running import ScheduleSection, WorkersSection
from jobs.job_file.sections.sampling import ImagesSection, SamplingSection
from workflows.prompt_files.columns import column_types
from workflows.storage.credentials import secret_in
from workflows.storage.path import check_writable

# Whoever knows the address of a webhook can post to it; `curl` also takes one without a scheme.
_WEB_HOOK = re.compile(
    r"https?://|hooks\.slack\.com/|discord(app)?\.com/api/webhooks|webhook\.office\.com|chat\.googleapis\.com",
    re.IGNORECASE,
)
MAX_NAME_LENGTH = 200


class CsvSection(Section):
    """How CSV and TSV files are written."""

    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="The character between fields. Default: the one of comma, semicolon, tab and vertical bar that the "
        "first line has most of; a tab in .tsv files.",
    )
    header: bool = Field(
        True, description="Whether the first line names the columns. Otherwise they are column_1, column_2, ..."
    )

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n ':
            raise ValueError("must be a character other than a quote, a space or a line break")
        return value


class JobSpec(Section):
    """A whole job file."""

    name: str | None = Field(None, description="Name of the job. Default: the name of the job file.")
    task: Literal["render", "understand"] = Field(
        "render",
        exclude_if=lambda task: task == "render",
        description="render: images from prompts. understand: answers to questions about images.",
    )
    prompts: str = Field(
        description="A file, a glob or a folder: a local path or any fsspec URL. Parquet, CSV, TSV, JSON lines, text "
        "with one prompt a line, or Arrow; or hf://datasets/ORGANIZATION/NAME/SPLIT."
    )
    prompt_column: str | None = Field(None, min_length=1, description="The column with the prompts. Default: prompt.")
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="Other columns that the job reads under another name, such as `seed: my_seed`. `id: null`: a "
        "column of that name is not the id; it is carried as original_id.",
    )
    csv: CsvSection = CsvSection()
    where: str | None = Field(
        None,
        min_length=1,
        description="Render the rows that meet this condition: SQL over the columns, as in DuckDB, such as "
        "`category = 'Animals' and length(prompt) < 200`.",
    )
    deduplicate: bool = Field(False, description="Leave out rows with the prompt and the settings of an earlier row.")
    sample: int | None = Field(None, ge=1, description="Render this many rows, picked at random.")
    sample_seed: int = Field(0, ge=0, lt=2**64, description="The seed of `sample`.")
    limit: int | None = Field(None, ge=1, description="Render this many rows at most: the first ones.")
    output: str = Field(description="The output folder: a local path or any fsspec URL.")
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description="fsspec options of the object store, such as endpoint_url. Credentials come from the environment.",
    )
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    images: ImagesSection = ImagesSection()
    judge: JudgeSection | None = Field(
        None,
        exclude_if=lambda section: section is None,
        description="Look at every image with a model, score it, and keep the best of several candidates.",
    )
    understand: UnderstandSection | None = Field(
        None,
        exclude_if=lambda section: section is None,
        description="What a job with `task: understand` asks about its images.",
    )
    workers: WorkersSection = WorkersSection()
    shard_rows: int = Field(256, ge=1, le=1_000_000, description="Prompt rows per shard.")
    on_done: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="What to notify when the job ends: `$NAME`, an environment variable that holds an http(s) URL, or "
        "a shell command that reads the JSON.",
    )
    schedule: ScheduleSection | None = Field(None, description="When `janus-batch schedule` runs the job.")

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or not value.isprintable() or len(value) > MAX_NAME_LENGTH):
            raise ValueError(
                f"must have 1 to {MAX_NAME_LENGTH} characters, no line breaks and no other control characters"
            )
        return value

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        if empty := next((name for name, written in value.items() if written == ""), None):
            raise ValueError(f"a column's name must not be empty, got {empty}: ''")
        written = [name for name in value.values() if name is not None]
        if len(set(written)) < len(written):
            raise ValueError(f"a column can have one name only, got {value}")
        if needed := next((name for name in ("prompt", "image") if value.get(name, name) is None), None):
            raise ValueError(f"a job needs the column {needed}, which cannot be null")
        return value

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secret := secret_in(value):
            raise secret_fault(secret)
        for key, option in value.items():
            if key.endswith("_kwargs") and not isinstance(option, dict):
                raise ValueError(f"{key} must be a section with keys and values")
        if not isinstance(value.get("endpoint_url", ""), str):
            raise ValueError("endpoint_url must be text: http://HOST:PORT")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options must be text, numbers, booleans, lists and sections ({error})") from error
        return value

    @field_validator("on_done")
    @classmethod
    def _check_on_done(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not value.strip() or "\0" in value:
            raise ValueError("must be $NAME or a command")
        if _WEB_HOOK.search(value):
            raise secret_fault("a URL", "put it into an environment variable and write on_done: $NAME")
        if secret := secret_in_command(value):
            raise secret_fault(secret, "put it into an environment variable, which the command can read")
        return value

    @field_validator("prompts", "output")
    @classmethod
    def _check_location(cls, value: str) -> str:
        return checked_location(value)

    @field_validator("output")
    @classmethod
    def _check_output(cls, value: str) -> str:
        check_writable(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_empty_sections(cls, fields: Any) -> Any:
        """Fill sections whose keys are all commented out, which YAML reads as null, with their defaults."""
        if not isinstance(fields, dict):
            return fields
        sections = {"storage", *(key for key, field in cls.model_fields.items() if section_of(field.annotation))}
        optional = {key for key, field in cls.model_fields.items() if field.default is None}
        empty: dict[str, Any] = {key: {} for key in sections - optional if key in fields and fields[key] is None}
        return {**fields, **empty}

    @model_validator(mode="after")
    def _check_prompt_column(self) -> JobSpec:
        if self.prompt_column is not None and "prompt" in self.columns:
            raise plain_error(
                f"prompt_column and columns.prompt name the same column twice, got {self.prompt_column} and "
                f"{self.columns['prompt']}"
            )
        if self.prompt_column is not None and self.prompt_column in self.columns.values():
            raise plain_error(f"columns: {self.prompt_column} is the prompt_column already")
        taker = next((name for name, written in self.columns.items() if written == "prompt"), None)
        if taker and self.task == "render" and self.prompt_column is None and "prompt" not in self.columns:
            raise plain_error(f"columns.{taker}: the column prompt has the prompts; prompt_column can name another one")
        return self

    @model_validator(mode="after")
    def _check_task(self) -> JobSpec:
        if self.task == "render" and self.understand is not None:
            raise plain_error("understand: needs task: understand")
        known = column_types(reads_images=self.task == "understand")
        if other := next((name for name in self.columns if name not in known), None):
            raise plain_error(f"columns: the columns that a job reads are {', '.join(known)}; got {other}")
        if self.task == "understand":
            if self.prompt_column is not None:
                raise plain_error("prompt_column: a job with task: understand reads no prompts; see columns.question")
            if self.deduplicate:
                raise plain_error("deduplicate: compares prompts, and a job with task: understand reads none")
            defaults = {"sampling": SamplingSection(), "images": ImagesSection(), "judge": None}
            for key, default in defaults.items():
                if getattr(self, key) != default:
                    raise plain_error(f"{key}: a job with task: understand renders nothing; leave the section out")
        return self

    @model_validator(mode="after")
    def _check_dates(self) -> JobSpec:
        for key, location in (("prompts", self.prompts), ("output", self.output)):
            if self.schedule is None and has_dates(location):
                raise plain_error(f"{key}: date fields need a schedule section, got {location}")
            if self.schedule is not None:
                try:
                    check_date_fields(location)
                except ValueError as error:
                    raise plain_error(f"{key}: {error}, got {location}") from error
        return self

    @property
    def has_dates(self) -> bool:
        return has_dates(self.prompts) or has_dates(self.output)

    def model_folders(self, base: Path) -> dict[str, str]:
        """The models that the job opens from a folder, by key; a relative one is in `base`. Others are URLs, hub ids or
        bundled names.
        """
        adapters = [section.name for variant in self.model.adapter or () for section in variant]
        named = {
            "model.checkpoint": self.model.checkpoint,
            "model.vae": self.model.vae,
            "judge.checkpoint": self.judge and self.judge.checkpoint,
            **{f"model.adapter {number}": name for number, name in enumerate(adapters, 1)},
        }
        return {
            key: name for key, name in named.items() if name and (name.startswith((".", "~")) or (base / name).is_dir())
        }

    @property
    def data_folders(self) -> dict[str, str]:
        """The prompts, and the folder of the images that a job looks at if it names one, by key."""
        root = self.understand and self.understand.root
        return {"prompts": self.prompts, **({"understand.root": root} if root else {})}
