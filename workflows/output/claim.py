"""job.json, the claim on an output: which job it belongs to and with which settings its images are made.

It is written once, before anything else, and read only here. `_SUCCESS` next to it marks a finished output.
"""

from __future__ import annotations

import codecs
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.errors import InputError, one_line
from actors.families import FAMILIES
from actors.recipe import Recipe
from janus_batch import VERSION
from workflows.job import Images, PromptReading, RenderJob, Workers
from workflows.storage.errors import NotAFileError, StorageError, storage_errors
from workflows.storage.path import JOB_FILE, OUTPUT_FOLDERS, absolute_location, folders_around, stable_location
from workflows.storage.store import CONDITIONAL_CREATE, Storage

SUCCESS_FILE = "_SUCCESS"
MAX_CLAIM_BYTES = 16 * 2**20
MAX_SHARD_ROWS = 1_000_000

# The fields of a recipe that the job file's `model` sets, those of its judge that `judge` sets, and those that no key
# sets. `sampling` sets the others.
MODEL_KEYS = (
    *("checkpoint", "revision", "prompt_format", "prompt_template", "protocol", "adapters"),
    *("vae", "vae_revision", "dtype", "kv_cache"),
)
JUDGE_KEYS = ("question", "best_of", "retry_below", "max_tries", "caption_tokens", "checkpoint", "revision")
# Keys that are not named as the fields that they set.
READING_KEYS = {"csv_delimiter": "csv.delimiter", "csv_header": "csv.header", "reads_images": "task"}
LOOK_KEYS = {
    "question": "understand.question",
    "max_tokens": "understand.max_tokens",
    "scores_all": "understand.score",
    "root": "understand.root",
}
DERIVED_FIELDS = ("family", "weights_sha256", "vae_sha256", "sampler")


class Claim(BaseModel):
    """What job.json holds. Keys that only a later version writes are ignored, but not in `images`, `recipe`, `reading`.

    * `version`: the version of janus-batch that claimed the output; `created_at`: when, ISO 8601 in UTC.
    * `name`, `prompts`, `output`: as in the job, with absolute paths.
    * `images`, `recipe`: how the images are stored and rendered. A resume must have the same ones.
    * `reading`: how the prompt files are read, pinned like the recipe.
    * `shard_rows`: prompt rows per shard, for every run on this output.
    * `conditional_create`: whether the store refuses to create a file that exists.
    * `job_file`: the job file as written by the user, for people and for `retry-rejected`.
    """

    model_config = ConfigDict(frozen=True)

    version: str = Field("", alias="janus_batch")
    name: str
    created_at: str = ""
    prompts: str
    output: str = ""
    images: Images
    recipe: Recipe
    reading: PromptReading = PromptReading()
    shard_rows: int = Field(ge=1, le=MAX_SHARD_ROWS)
    conditional_create: bool = True
    job_file: dict[str, Any]


class OtherJobError(InputError):
    """The output belongs to a job that would render other images."""


class OtherVersionError(InputError):
    """The output has settings that only another version of janus-batch knows."""


def claim_output(job: RenderJob, job_file: dict[str, Any]) -> bool:
    """Write job.json if the output is free, else check that it is this job's. True if the output is being resumed.

    `job_file` is the job file as written, kept for people. Raises OtherJobError naming the first field that differs
    and both values, OtherVersionError, or StorageError if the output cannot be written.
    """
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output):
        if not storage.exists(JOB_FILE):
            if storage.names("manifest"):
                raise StorageError(
                    f"{job.output} holds a manifest and no {JOB_FILE}: it is not an output of janus-batch"
                )
            check_not_among_files(storage)
            _check_first_writer_wins(storage)
            if storage.create(JOB_FILE, _to_json(_claim_of(job, job_file))):
                return False
        _check_same_job(job, read_claim(storage))
        storage.remove(SUCCESS_FILE)
        return True


def check_not_among_files(storage: Storage) -> None:
    """Raise StorageError for a folder among the files of an output: their readers would take its files for theirs."""
    for folder, below in folders_around(storage.url):
        if below.partition("/")[0] in OUTPUT_FOLDERS:
            with suppress(PermissionError):
                if Storage(folder, storage.options).exists(JOB_FILE):
                    raise StorageError(f"{storage.url} is among the files of the output {folder}; name another folder")


def restore_claim(job: RenderJob, job_file: dict[str, Any]) -> None:
    """Write job.json again after it was removed while this job holds the output, so that the next run can resume."""
    Storage(job.output, job.storage).create(JOB_FILE, _to_json(_claim_of(job, job_file)))


def check_claim(job: RenderJob, *, ignore: tuple[str, ...] = ()) -> None:
    """Raise OtherJobError if the output belongs to another job. An output without job.json is free."""
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output):
        if storage.exists(JOB_FILE):
            _check_same_job(job, read_claim(storage), ignore)


def claimed_shard_rows(storage: Storage, job: RenderJob) -> int:
    """The rows per shard of this output: those of its first run.

    Drivers that cut the prompts differently could commit a row twice, each in a shard of its own.
    """
    return read_claim(storage).shard_rows if storage.exists(JOB_FILE) else job.shard_rows


def open_output(output: str, endpoint_url: str | None, *, may_hold_answers: bool = False) -> tuple[Storage, Claim]:
    """The storage and the claim of an output folder. Raises StorageError if it is not one, and OtherVersionError.

    Raises InputError for an output of a job that looked at images, unless the caller can do with answers in place of
    images.
    """
    address = {"endpoint_url": endpoint_url} if endpoint_url else {}
    url = absolute_location(output, "OUTPUT")
    with storage_errors(output):
        claim = read_claim(Storage(url, address, is_first_contact=True))
    if claim.recipe.look is not None and not may_hold_answers:
        raise InputError(
            f"{output} holds answers about images and no images of its own; `janus-batch status`, "
            "`janus-batch verify` and `janus-batch retry-rejected` work on it, and any reader of Parquet reads the "
            "answers in its manifest folder"
        )
    return Storage(url, claim.job_file.get("storage", {}) | address), claim


def read_claim(storage: Storage) -> Claim:
    """job.json of an output. Raises StorageError if it is missing or damaged, and OtherVersionError."""
    try:
        data = storage.read(JOB_FILE) if storage.size(JOB_FILE) <= MAX_CLAIM_BYTES else b""
    except NotAFileError as error:
        if storage.is_local and os.path.isfile(storage.root):
            raise StorageError(f"{storage.url} is a file, and an output of janus-batch is a folder") from error
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{storage.url} has no {JOB_FILE}: it is not an output of janus-batch") from error
    if foreign := _foreign_kind(data):
        raise StorageError(f"{storage.url}/{JOB_FILE} {foreign}; it must be the JSON that janus-batch wrote")
    try:
        claim = Claim.model_validate_json(data.removeprefix(codecs.BOM_UTF8), strict=True)
    except ValidationError as error:
        raise _plain_error(f"{storage.url}/{JOB_FILE}", data, error) from error
    if claim.recipe.family not in FAMILIES:
        raise _other_version(f"{storage.url}/{JOB_FILE}", "recipe.family", claim.recipe.family, claim.version)
    return claim


def claimed_job(storage: Storage, claim: Claim, workers: Workers | None = None) -> RenderJob:
    """The job of an output, from what it has pinned."""
    return RenderJob(
        name=claim.name,
        prompts=claim.prompts,
        output=storage.url,
        storage=storage.options,
        recipe=claim.recipe,
        images=claim.images,
        workers=workers or Workers(),
        shard_rows=claim.shard_rows,
    )


def mark_success(job: RenderJob, num_images: int, num_rejected: int) -> None:
    """Write _SUCCESS, the mark of a finished output."""
    text = json.dumps({"num_images": num_images, "num_rejected": num_rejected, "finished_at": _now()}) + "\n"
    Storage(job.output, job.storage).write(SUCCESS_FILE, text.encode())


def _claim_of(job: RenderJob, job_file: dict[str, Any]) -> Claim:
    return Claim(
        janus_batch=VERSION,
        name=job.name,
        created_at=_now(),
        prompts=job.prompts,
        output=job.output,
        images=job.images,
        recipe=job.recipe,
        reading=job.reading,
        shard_rows=job.shard_rows,
        conditional_create=job.storage.get(CONDITIONAL_CREATE, True),
        job_file=job_file,
    )


def _to_json(claim: Claim) -> bytes:
    return (claim.model_dump_json(indent=2, by_alias=True) + "\n").encode()


def _foreign_kind(data: bytes) -> str | None:
    """What is in job.json if it is not what a run writes, damaged or not."""
    if not data.strip():
        return f"is empty or has more than {MAX_CLAIM_BYTES // 2**20} MiB"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "is UTF-16 text"
    if not data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        return f"is no JSON object, it begins with {data[:40]!r}"
    return None


def _plain_error(name: str, data: bytes, error: ValidationError) -> InputError:
    """One line for job.json's first fault: the field, the rule and the value."""
    faults = error.errors()
    unknown = next((fault for fault in faults if fault["type"] == "unexpected_keyword_argument"), None)
    fault = unknown or faults[0]
    field = ".".join(map(str, fault["loc"]))
    if unknown:
        return _other_version(name, field, fault["input"], json.loads(data).get("janus_batch", "unknown"))
    if fault["type"] == "missing":
        return StorageError(f"{name} is damaged: {field} is missing")
    value = f", got {repr(fault['input'])[:80]}" if field else ""
    return StorageError(f"{name} is damaged: {field}{': ' if field else ''}{fault['msg']}{value}")


def _other_version(name: str, field: str, value: Any, version: str) -> OtherVersionError:
    return OtherVersionError(
        f"{name} has {field} = {one_line(json.dumps(value))}, which version {VERSION} of janus-batch does not "
        f"know; use the version that started this output ({one_line(str(version))})"
    )


def _check_first_writer_wins(storage: Storage) -> None:
    """Raise StorageError for a store on which two attempts could overwrite each other, unless the job allows it."""
    if storage.can_create and not storage.keeps_the_first():
        raise StorageError(
            f"{storage.url} does not refuse to create a file that exists (with If-None-Match on S3, with hard links "
            "on local disks), so a late attempt at a shard could overwrite the first one. Use a store that refuses, "
            "or set storage.conditional_create: false and read in docs/output.md which guarantees are lost"
        )


def _check_same_job(job: RenderJob, claim: Claim, ignore: tuple[str, ...] = ()) -> None:
    theirs, ours = _pinned_fields(claim), _pinned_fields(_claim_of(job, {}))
    for field in dict.fromkeys([*ours, *theirs]):
        their_value, our_value = theirs.get(field), ours.get(field)  # a job without a judge has no fields of one
        if field not in ignore and their_value != our_value:
            theirs_shown, ours_shown = (one_line(json.dumps(value)) for value in (their_value, our_value))
            raise OtherJobError(
                f"{job.output} belongs to a job with {_key_of(field)} = {theirs_shown}, this job has {ours_shown}; "
                f"{_remedy(field, claim)}, or render into another output folder"
            )


def _remedy(field: str, claim: Claim) -> str:
    """How the job of an output can be finished after this field has changed."""
    section, _, name = field.rpartition(".")
    if name in ("sampler", "looker"):
        return f"finish it with the version of janus-batch that started it ({claim.version or 'unknown'})"
    if name in ("family", "weights_sha256", "vae_sha256"):
        key = "judge.revision" if section == "judge" else f"model.{'vae_' * name.startswith('vae')}revision"
        return f"finish it with the files that the checkpoint had then ({key} pins a commit)"
    return "finish it with the old value"


def _key_of(field: str) -> str:
    """The job file's key that sets a pinned field; the field itself if no key sets it."""
    section, _, name = field.partition(".")
    if section == "reading":
        return READING_KEYS.get(name, name)
    if section == "look":
        return LOOK_KEYS.get(name, f"recipe.{field}")
    if section != "recipe" or name in DERIVED_FIELDS:
        return field
    if name.startswith("judge."):
        return name if name.removeprefix("judge.") in JUDGE_KEYS else field
    if name in MODEL_KEYS:
        return "model.adapter" if name == "adapters" else f"model.{name}"
    return "sampling.cfg_weight" if name == "cfg_weights" else f"sampling.{name}"


def _pinned_fields(claim: Claim) -> dict[str, Any]:
    """The values that a resume must find unchanged, by dotted name and as JSON has them."""
    fields = claim.model_dump(mode="json")
    judge, look = fields["recipe"].pop("judge", {}), fields["recipe"].pop("look", {})
    pinned = {
        "prompts": claim.prompts,
        **{f"images.{name}": value for name, value in fields["images"].items()},
        f"storage.{CONDITIONAL_CREATE}": claim.conditional_create,
        **{f"recipe.{name}": value for name, value in fields["recipe"].items()},
        **{f"look.{name}": value for name, value in look.items()},
        **{f"recipe.judge.{name}": value for name, value in judge.items()},
        **{f"reading.{name}": value for name, value in fields["reading"].items()},
    }
    return {name: stable_location(value) if isinstance(value, str) else value for name, value in pinned.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
