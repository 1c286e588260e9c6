"""Read a job file: YAML, `--set` settings laid over it, all of it checked."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic

from actors.errors import one_line
from jobs.job_file.errors import JobFileError
from jobs.job_file.faults import explain
from jobs.job_file.load_yaml import load_yaml
from jobs.job_file.spec import JobSpec
from workflows.storage.path import shown_location

MAX_BYTES = 2**20


def read_job_file(path: str, settings: list[str]) -> JobSpec:
    """Read a YAML job file, lay `--set key=value` settings over it, and check it all. Raises JobFileError."""
    shown = one_line(path)
    try:
        fields = load_yaml(_read(path))
    except OSError as error:
        raise JobFileError(f"job file {shown} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise JobFileError(f"job file {shown}: {error}") from error
    if not isinstance(fields, dict):
        raise JobFileError(f"job file {shown} must hold keys and values, it holds {_kind_of(fields)}")
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


def _read(path: str) -> str:
    """The file's text. Raises OSError, and ValueError for what is no text file of at most 1 MiB."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe without a writer is not waited for
        kind = os.fstat(file.fileno()).st_mode
        os.set_blocking(file.fileno(), True)
        if stat.S_ISFIFO(kind) and not path.startswith("/dev/fd/"):
            raise ValueError("is a pipe, and no file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than a job file can be ({MAX_BYTES:,} bytes)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text: {error.reason} at byte {error.start:,}") from error


def _lay_over(fields: dict[str, Any], setting: str) -> None:
    """Apply one `a.b=value`, the value read as YAML. The value is not repeated in a message: it may be a secret."""
    key, sign, text = setting.partition("=")
    if not sign or not key.strip():
        raise JobFileError("--set takes key=value with a dotted key: --set sampling.seed=7" + shown_location(setting))
    *sections, last = key.strip().split(".")
    for section in sections:
        fields[section] = fields.get(section) if fields.get(section) is not None else {}
        fields = fields[section]
        if not isinstance(fields, dict):
            raise JobFileError(f"--set {key}: {section} is no section")
    try:
        fields[last] = load_yaml(text)
    except ValueError as error:
        raise JobFileError(f"--set {key}: the value is not YAML: {error}") from error


def _kind_of(value: Any) -> str:
    kinds = {type(None): "nothing", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number")
