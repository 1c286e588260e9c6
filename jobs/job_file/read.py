"""Read a job file: YAML, `--set` settings laid over it, all of it checked."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic
import yaml

from jobs.job_file.errors import JobFileError
from jobs.job_file.faults import explain
from jobs.job_file.spec import JobSpec


def read_job_file(path: str, settings: list[str]) -> JobSpec:
    """Read a YAML job file, lay `--set key=value` settings over it, and check it all. Raises JobFileError."""
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JobFileError(f"job file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise JobFileError(f"job file {path} is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise JobFileError(f"job file {path} must hold keys and values, it holds {type(fields).__name__}")
    return check_fields({"name": Path(path).stem, **fields}, settings)


def check_fields(fields: dict[str, Any], settings: Iterable[str] = ()) -> JobSpec:
    """The spec these fields make, with `key=value` settings laid over. Raises JobFileError, a line for each fault."""
    fields = copy.deepcopy(fields)
    for setting in settings:
        _lay_over(fields, setting)
    try:
        return JobSpec.model_validate(fields)
    except pydantic.ValidationError as error:
        raise JobFileError("\n".join(dict.fromkeys(explain(fault) for fault in error.errors()))) from error


def _lay_over(fields: dict[str, Any], setting: str) -> None:
    """Apply one `a.b=value`, the value read as YAML."""
    key, sign, text = setting.partition("=")
    if not sign or not key.strip():
        raise JobFileError(f"--set takes key=value with a dotted key (--set sampling.seed=7), got {setting!r}")
    *sections, last = key.strip().split(".")
    for section in sections:
        fields = fields.setdefault(section, {})
        if not isinstance(fields, dict):
            raise JobFileError(f"--set {setting}: {section} is no section")
    try:
        fields[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JobFileError(f"--set {setting}: the value is not YAML: {error}") from error
