"""The sections and keys of a job file, as pydantic models. `jobs.job_file.resolve` turns them into a job."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from actors.errors import shown
from actors.prompt.template import TEMPLATES
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, BOS
from actors.recipe import CAPTION_QUESTION, CAPTION_TOKENS, PROMPT_FIELD
from jobs.job_file.cron import check_cron
from jobs.job_file.date_fields import check_date_fields, has_dates
from workflows.prompt_files.columns import column_types
from workflows.storage.credentials import secret_in, secret_in_address
from workflows.storage.path import check_location, check_writable

# Own types of pydantic errors: the rule already names the keys and values, or the value must not be shown.
BETWEEN_FAULT, SECRET_FAULT = "between", "secret"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# Whoever knows the address of a webhook can post to it; `curl` also takes one without a scheme.
_WEB_HOOK = re.compile(
    r"https?://|hooks\.slack\.com/|discord(app)?\.com/api/webhooks|webhook\.office\.com|chat\.googleapis\.com",
    re.IGNORECASE,
)
MAX_NAME_LENGTH = 200
MAX_TEMPLATE_LENGTH = 10_000
MAX_ACTORS = 100_000
NO_ADAPTER = "none"  # in a sweep: the model as it is
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class TemplateSection(_Section):
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


class AdapterSection(_Section):
    """A LoRA adapter and the factor of what it adds."""

    name: str = Field(description="Hub id, local folder or s3:// folder of a LoRA adapter as PEFT saves it.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    weight: FiniteFloat = Field(1.0, description="The factor of what the adapter adds.")

    @field_validator("name")
    @classmethod
    def _check_location(cls, value: str) -> str:
        return _checked_location(value)


class ModelSection(_Section):
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
        return value if value is None else _checked_location(value)

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: Any) -> Any:
        if value in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 is refused: the SDXL VAE overflows in float16 and decodes black images; the models were "
                "trained in bfloat16"
            )
        return value


class SamplingSection(_Section):
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


class ImagesSection(_Section):
    format: Literal["png", "webp", "jpeg"] = Field("png", description="png and webp are lossless.")
    layout: Literal["files", "webdataset", "parquet"] = Field(
        "files", description="files: one file per image. webdataset, parquet: one file per shard."
    )
    keep_latents: bool = Field(False, description="JanusFlow: store each image's latents as .npy next to it.")


DEFAULT_QUESTION = f"Does this image show {PROMPT_FIELD}? Answer yes or no."
DEFAULT_MAX_TRIES = 3
MAX_CANDIDATES = 256  # of one image
SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^<>]*[|\uff5c]>|<image_placeholder>|<(begin|end)_of_image>")


class JudgeSection(_Section):
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
        return value if value is None else _checked_location(value)

    @model_validator(mode="after")
    def _check_keys(self) -> JudgeSection:
        if self.max_tries is not None and self.retry_below is None:
            raise _plain_error(f"judge.max_tries: needs judge.retry_below, got {self.max_tries}")
        if self.num_tries * self.best_of > MAX_CANDIDATES:
            raise _plain_error(
                f"judge.best_of: best_of x max_tries must be at most {MAX_CANDIDATES} candidates per image, got "
                f"{self.best_of} x {self.num_tries}"
            )
        if self.revision is not None and self.checkpoint is None:
            raise _plain_error(
                f"judge.revision: needs judge.checkpoint, got {self.revision!r}; the job's own checkpoint has "
                "model.revision"
            )
        return self

    @property
    def num_tries(self) -> int:
        """The most tries of an image."""
        return 1 if self.retry_below is None else self.max_tries or DEFAULT_MAX_TRIES


class UnderstandSection(_Section):
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
        return value if value is None else _checked_location(value)


class WorkersSection(_Section):
    min: int = Field(1, ge=1, le=MAX_ACTORS, description="Minimum number of actors.")
    max: int | None = Field(
        None, ge=1, le=MAX_ACTORS, description="Maximum number of actors. Default: as many as fit on the cluster."
    )
    gpus_per_actor: FiniteFloat | None = Field(
        None, description="1, or 0 to render on CPUs. Default: 1 if the cluster has a GPU, else 0."
    )
    batch_size: int | Literal["auto"] = Field("auto", description="Images that one actor renders at once.")
    max_tries: int = Field(
        3, ge=1, description="How often a shard may fail before bisection looks for the row at fault."
    )
    on_shard_failure: Literal["stop", "skip"] = Field(
        "stop", description="After a shard fails for good: stop the job, or skip the shard and exit with 1 at the end."
    )
    stall_minutes: FiniteFloat | None = Field(
        None,
        gt=0,
        description="An actor that makes no image for this long is killed and replaced. Default: 10, or 20 times the "
        "longest batch so far if that is longer.",
    )
    drain_seconds: FiniteFloat = Field(
        25.0, ge=0, description="After a SIGTERM, the time to finish the shards in flight. The job can be resumed."
    )
    storage_retry_seconds: FiniteFloat = Field(
        300, ge=0, description="How long each step of a shard retries storage that is busy or does not answer."
    )
    accelerator_type: str | None = Field(
        None,
        min_length=1,
        description="Render only on this type of GPU, by Ray's name: L4, L40S, A100-80G, H100.",
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _check_gpus_per_actor(cls, value: float | None) -> float | None:
        if value not in (None, 0, 1):
            raise ValueError("must be 0 or 1: an actor renders on CPUs or on one GPU, and uses all memory of that GPU")
        return value

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @model_validator(mode="after")
    def _check_range(self) -> WorkersSection:
        if self.max is not None and self.min > self.max:
            raise _plain_error(f"workers.min: must be at most workers.max, {self.max}, got {self.min}")
        return self


class ScheduleSection(_Section):
    """When `janus-batch schedule` runs the job."""

    cron: str = Field(
        description="`minute hour day month weekday`, as in a crontab. A sixth field in front is the second."
    )
    time_zone: str = Field("UTC", description="Time zone of cron and of date fields, such as Europe/Berlin.")
    when_running: Literal["skip", "queue"] = Field(
        "skip", description="If the last run is still running when the next is due: skip the next one, or queue it."
    )
    catch_up: int = Field(
        1, ge=0, le=1000, description="How many missed or queued runs may wait for their start. Older runs are dropped."
    )
    max_tries: int = Field(3, ge=1, description="How often an incomplete run (exit code 1) is started.")

    @pydantic.model_validator(mode="after")
    def _check_times(self) -> ScheduleSection:
        try:
            check_cron(self.cron, self.time_zone)
        except ValueError as error:
            raise _plain_error(f"schedule.cron: {error}, got {shown(self.cron)} in {shown(self.time_zone)}") from error
        if self.when_running == "queue" and not self.catch_up:
            raise _plain_error("schedule.catch_up: must be at least 1 with when_running: queue, got 0")
        return self


class CsvSection(_Section):
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


class JobSpec(_Section):
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
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Other columns that the job reads under another name, such as `seed: my_seed`.",
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
    def _check_columns(cls, value: dict[str, str]) -> dict[str, str]:
        if empty := next((name for name, written in value.items() if not written), None):
            raise ValueError(f"a column's name must not be empty, got {empty}: ''")
        if len(set(value.values())) < len(value):
            raise ValueError(f"a column can have one name only, got {value}")
        return value

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secret := secret_in(value):
            raise _secret_fault(secret)
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
            raise _secret_fault("a URL", "put it into an environment variable and write on_done: $NAME")
        if secret := secret_in(value):
            raise _secret_fault(secret, "put it into an environment variable, which the command can read")
        return value

    @field_validator("prompts", "output")
    @classmethod
    def _check_location(cls, value: str) -> str:
        return _checked_location(value)

    @field_validator("output")
    @classmethod
    def _check_output(cls, value: str) -> str:
        check_writable(value)
        return value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_empty_sections(cls, fields: Any) -> Any:
        """Fill sections whose keys are all commented out, which YAML reads as null, with their defaults."""
        if not isinstance(fields, dict):
            return fields
        sections = {"storage", *(key for key, field in cls.model_fields.items() if section_of(field.annotation))}
        optional = {key for key, field in cls.model_fields.items() if field.default is None}
        empty: dict[str, Any] = {key: {} for key in sections - optional if key in fields and fields[key] is None}
        return {**fields, **empty}

    @pydantic.model_validator(mode="after")
    def _check_prompt_column(self) -> JobSpec:
        if self.prompt_column is not None and "prompt" in self.columns:
            raise _plain_error(
                f"prompt_column and columns.prompt name the same column twice, got {self.prompt_column} and "
                f"{self.columns['prompt']}"
            )
        if self.prompt_column in self.columns.values():
            raise _plain_error(f"columns: {self.prompt_column} is the prompt_column already")
        taker = next((name for name, written in self.columns.items() if written == "prompt"), None)
        if taker and self.task == "render" and self.prompt_column is None and "prompt" not in self.columns:
            raise _plain_error(
                f"columns.{taker}: the column prompt has the prompts; prompt_column can name another one"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_task(self) -> JobSpec:
        if self.task == "render" and self.understand is not None:
            raise _plain_error("understand: needs task: understand")
        known = column_types(reads_images=self.task == "understand")
        if other := next((name for name in self.columns if name not in known), None):
            raise _plain_error(f"columns: the columns that a job reads are {', '.join(known)}; got {other}")
        if self.task == "understand":
            if self.prompt_column is not None:
                raise _plain_error("prompt_column: a job with task: understand reads no prompts; see columns.question")
            if self.deduplicate:
                raise _plain_error("deduplicate: compares prompts, and a job with task: understand reads none")
            defaults = {"sampling": SamplingSection(), "images": ImagesSection(), "judge": None}
            for key, default in defaults.items():
                if getattr(self, key) != default:
                    raise _plain_error(f"{key}: a job with task: understand renders nothing; leave the section out")
        return self

    @pydantic.model_validator(mode="after")
    def _check_dates(self) -> JobSpec:
        for key, location in (("prompts", self.prompts), ("output", self.output)):
            if self.schedule is None and has_dates(location):
                raise _plain_error(f"{key}: date fields need a schedule section, got {location}")
            if self.schedule is not None:
                try:
                    check_date_fields(location)
                except ValueError as error:
                    raise _plain_error(f"{key}: {error}, got {location}") from error
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


def _sections_of(item: Any) -> Any:
    """The adapters of one model of a sweep: a name, a section, a list of both, or none."""
    if item is None or item == NO_ADAPTER:
        return []
    if isinstance(item, str):
        return [{"name": item}]
    return [{"name": part} if isinstance(part, str) else part for part in item] if isinstance(item, list) else [item]


def _checked_location(location: str) -> str:
    if secret := secret_in_address(location):
        raise _secret_fault(secret)
    check_location(location)
    return location


def _secret_fault(secret: str, remedy: str = "credentials come from the environment") -> PydanticCustomError:
    rule = f"{secret} is refused, because job files are copied into job.json and logs; {remedy}"
    return PydanticCustomError(SECRET_FAULT, "{rule}", {"rule": rule})


def _plain_error(rule: str) -> PydanticCustomError:
    """An error whose rule already names the keys and values."""
    return PydanticCustomError(BETWEEN_FAULT, "{rule}", {"rule": rule})


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a required or optional section; None for any other key."""
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
