"""`janus-batch replay`: re-render one image of an output from its manifest row, or vary it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from actors.errors import InputError, one_line
from actors.families import FAMILIES
from actors.guidance import check_cfg_weight
from actors.noise import derive_seed
from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import check_family_settings
from jobs.job_file.sections.sampling import SamplingSection
from workflows.output.claim import Claim, open_output
from workflows.output.encode import EXTENSIONS
from workflows.storage.errors import storage_errors
from workflows.storage.path import check_new_file
from workflows.storage.store import Storage
from workflows.verify.replay import ImageReplay, find_image, format_of, replay_image


def replay(output: str, image_id: str, endpoint_url: str | None, *, settings: Sequence[str], to: str | None) -> int:
    """Write the image and say whether its bytes match the stored ones. 1 if they should match and do not."""
    storage, claim = open_output(output, endpoint_url)
    with storage_errors(storage.url):
        row = find_image(storage, image_id)
    changes = changed_settings(row, storage, claim, {}, settings)
    stored_format = format_of(row["image"])
    file = to or f"{image_id}.{EXTENSIONS[stored_format]}"
    check_new_file(file, [storage.url], "--to")
    with storage_errors(storage.url):
        result = replay_image(storage, row, format_of(to) if to else stored_format, changes)
    if result.data is None:
        click.echo(f"janus-batch: {image_id}: {result.replay.difference}", err=True)
        return 1
    _write(file, result.data)
    _print_result(row, result, changes, file)
    return 0 if changes or result.replay.is_same else 1


def changed_settings(
    row: dict[str, Any], storage: Storage, claim: Claim, sampling: dict[str, Any], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """The fields of the image's request that the keys of `sampling` or `--set` settings change, checked like a job
    file. Raises JobFileError.
    """
    for key in (*(f"sampling.{key}" for key in sampling), *(text.partition("=")[0].strip() for text in settings)):
        if not key.startswith("sampling.") or key == "sampling.images_per_prompt":
            option = "" if sampling else "--set: "
            advice = f"; did you mean sampling.{key}?" if key in SamplingSection.model_fields else ""
            raise JobFileError(
                f"{option}replay varies one image by the keys of `sampling`, got {one_line(key)}{advice}"
            )
    model = {"checkpoint": row["model"]}
    fields = {"prompts": claim.prompts, "output": storage.url, "model": model, "sampling": sampling}
    spec, family = check_fields(fields, settings), FAMILIES[row["family"]]
    check_family_settings(spec, row["family"])
    changes = spec.sampling.model_dump(exclude_unset=True)
    allow_any = changes.pop("allow_any_cfg_weight", False)
    if "cfg_weight" in changes:
        changes["cfg_weight"] = _weight(changes["cfg_weight"], family.default_cfg_weight, allow_any=allow_any)
    if "seed" in changes:
        changes["seed"] = derive_seed(changes["seed"], row["prompt_id"], row["image_index"])
    defaults = {key: family.settings.get(key) for key, value in changes.items() if value is None}
    tuples = {key: tuple(value) for key, value in changes.items() if isinstance(value, list)}
    return changes | defaults | tuples


def _weight(value: Any, default: float, *, allow_any: bool) -> float:
    if isinstance(value, list):
        raise JobFileError(f"sampling.cfg_weight: one image has one weight, got {value}")
    weight = default if value is None else float(value)
    try:
        check_cfg_weight(weight, allow_any=allow_any)
    except ValueError as error:
        raise JobFileError(f"sampling.cfg_weight: {error}") from error
    return weight


def _write(file: str, data: bytes) -> None:
    try:
        Path(file).write_bytes(data)
    except OSError as error:
        raise InputError(f"{one_line(file)} cannot be written: {error.strerror or error}") from error


def _print_result(row: dict[str, Any], result: ImageReplay, changes: dict[str, Any], file: str) -> None:
    click.echo(f"prompt    {one_line(row['prompt'])}")
    for key in changes:
        click.echo(f"changed   {key}: {_text(row[key])} -> {_text(getattr(result.request, key))}")
    if result.replay.same_bytes:
        click.echo(f"bytes     the same as {row['image']}")
    else:
        click.echo(f"bytes     not those of {row['image']}: {result.replay.difference}")
    if result.replay.score is not None:
        is_same = "the same as" if result.replay.same_score else "not that"
        score = f"{result.replay.score:.9g}, {is_same} in the manifest"
        click.echo(f"score     {score}" + ("" if result.replay.same_score else f" ({row['judge_score']:.9g})"))
    click.echo(f"wrote     {file}")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
