"""Whose output this is and what of it is done: the claim (job.json), the committed shards, the mark of success."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.job import RenderJob
from workflows.storage.errors import StorageError, storage_errors
from workflows.storage.store import CONDITIONAL_CREATE, Storage

JOB_FILE, SUCCESS_FILE = "job.json", "_SUCCESS"

# What a claim must hold for its output to be resumed or read.
_CLAIM_FIELDS = {"name": str, "prompts": str, "images": dict, "recipe": dict, "shard_rows": int, "job_file": dict}


class OtherJobError(InputError):
    """The output folder belongs to a job whose images would not be these."""


def claim_output(job: RenderJob, wish: dict[str, Any]) -> bool:
    """Write job.json if the output is free, else check that it is this job's. True if the output is being resumed.

    `wish` is the job file as it was resolved, kept for people. Raises OtherJobError naming the first field that
    differs and both values; StorageError if the output cannot be written.
    """
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output):
        if not storage.exists(JOB_FILE):
            if storage.names("manifest"):
                raise StorageError(f"{job.output} holds a manifest and no {JOB_FILE}: it is no output of janus-batch")
            _check_that_the_first_wins(storage)
            if storage.create(JOB_FILE, _claim_of(job, wish)):
                return False
        claim = read_claim(storage)
        _check_same_job(job, claim)
        storage.remove(SUCCESS_FILE)
        return True


def restore_claim(job: RenderJob, wish: dict[str, Any]) -> None:
    """Write job.json of an output that this job holds and that lost it, so that the next run finds it resumable."""
    Storage(job.output, job.storage).create(JOB_FILE, _claim_of(job, wish))


def check_claim(job: RenderJob, *, ignore: tuple[str, ...] = ()) -> None:
    """Raise OtherJobError if the output belongs to another job; an output that is not begun is anybody's."""
    storage = Storage(job.output, job.storage, is_first_contact=True)
    with storage_errors(job.output):
        if storage.exists(JOB_FILE):
            _check_same_job(job, read_claim(storage), ignore)


def claimed_shard_rows(storage: Storage, job: RenderJob) -> int:
    """The rows of a shard in this output: those of its first run. Drivers that cut the prompts differently could commit
    a row twice, each in a shard of its own."""
    return read_claim(storage)["shard_rows"] if storage.exists(JOB_FILE) else job.shard_rows


def read_claim(storage: Storage) -> dict[str, Any]:
    """job.json of an output. Raises StorageError if there is none or it cannot be read."""
    try:
        claim: dict[str, Any] = json.loads(storage.read(JOB_FILE))
    except FileNotFoundError as error:
        raise StorageError(f"{storage.url} has no {JOB_FILE}: it is no output of janus-batch") from error
    except ValueError as error:
        raise StorageError(f"{storage.url}/{JOB_FILE} is damaged: {error}") from error
    for field, kind in _CLAIM_FIELDS.items():
        if not isinstance(claim, dict) or not isinstance(claim.get(field), kind):
            raise StorageError(f"{storage.url}/{JOB_FILE} is damaged: it has no {field} that can be read")
    if not isinstance(claim["images"].get("layout"), str):
        raise StorageError(f"{storage.url}/{JOB_FILE} is damaged: it has no images.layout that can be read")
    return claim


def recipe_of(storage: Storage, claim: dict[str, Any]) -> Recipe:
    """The recipe in a claim. Raises StorageError if it is another version's or has values that cannot be."""
    try:
        return Recipe.from_dict(claim["recipe"])
    except TypeError as error:
        raise StorageError(f"{storage.url} was made by another version of janus-batch: {error}") from error
    except ValueError as error:
        raise StorageError(f"{storage.url}/{JOB_FILE} is damaged: {error}") from error


def committed_shards(storage: Storage) -> list[str]:
    """The ids of the committed shards, and of the committed parts of their retries, from one listing."""
    return [name.removesuffix(".parquet") for name in storage.names("manifest") if name.endswith(".parquet")]


def mark_success(job: RenderJob, num_images: int, num_rejected: int) -> None:
    text = json.dumps({"num_images": num_images, "num_rejected": num_rejected, "finished_at": _now()}) + "\n"
    Storage(job.output, job.storage).write(SUCCESS_FILE, text.encode())


def _check_that_the_first_wins(storage: Storage) -> None:
    """Raise StorageError for a store on which two attempts could overwrite each other, unless the job says it may."""
    if storage.can_create and not storage.keeps_the_first():
        raise StorageError(
            f"{storage.url} does not refuse to create a file that is there (by If-None-Match on S3, by hard links "
            "on local disks), so of two attempts at a shard the later could overwrite the first. Use a store that "
            "does, or set storage.conditional_create: false, and see docs/output.md for what is weaker then"
        )


def _claim_of(job: RenderJob, wish: dict[str, Any]) -> bytes:
    claim = {
        "janus_batch": _own_version(),
        "name": job.name,
        "created_at": _now(),
        "prompts": job.prompts,
        "output": job.output,
        "images": {"format": job.images.format, "layout": job.images.layout, "keep_latents": job.images.keep_latents},
        "recipe": job.recipe.to_dict(),
        "shard_rows": job.shard_rows,
        CONDITIONAL_CREATE: job.storage.get(CONDITIONAL_CREATE, True),
        "job_file": wish,
    }
    return (json.dumps(claim, indent=2, ensure_ascii=False) + "\n").encode()


def _check_same_job(job: RenderJob, claim: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    theirs = {
        "prompts": claim["prompts"],
        f"storage.{CONDITIONAL_CREATE}": claim.get(CONDITIONAL_CREATE, True),
        **{f"images.{key}": value for key, value in claim["images"].items()},
        **{f"recipe.{key}": value for key, value in claim["recipe"].items()},
    }
    for field, ours in job.pinned().items():
        if field not in ignore and theirs.get(field) != ours:
            raise OtherJobError(
                f"{job.output} was begun with {field} = {json.dumps(theirs.get(field))}, this job has "
                f"{json.dumps(ours)}; finish it with the old value or render into another output folder"
            )
    for field in sorted(theirs.keys() - job.pinned().keys()):
        raise OtherJobError(
            f"{job.output} was begun with {field} = {json.dumps(theirs[field])}, which version {_own_version()} of "
            f"janus-batch does not know; finish it with the version it was begun with ({claim.get('janus_batch')})"
        )


def _own_version() -> str:
    """This program's version; a working directory that Ray carried to a node runs without being installed."""
    try:
        return version("janus-batch")
    except PackageNotFoundError:
        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
