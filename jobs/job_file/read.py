"""Read a job file, apply `--set` settings, and check the result."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from actors.errors import is_unicode, one_line
from jobs.job_file.errors import JobFileError
from jobs.job_file.faults import explain_all
from jobs.job_file.load_yaml import load_yaml
from jobs.job_file.spec import JobSpec
from workflows.prompt_files.formats import format_of
from workflows.storage.path import shown_location

MAX_BYTES = 2**20
MAX_FAULTS = 10  # in an error message


def read_job_file(path: str, settings: list[str]) -> JobSpec:
    """Read a YAML job file and apply `--set key=value` settings. Raises JobFileError, with a line for each error."""
    shown = one_line(path)
    try:
        fields = load_yaml(_read(path))
    except OSError as error:
        raise JobFileError(f"job file {shown} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise JobFileError(f"job file {shown}: {error}{_advice(path)}") from error
    if not isinstance(fields, dict):
        kind = _kind_of(fields)
        raise JobFileError(f"job file {shown} must contain keys and values, it contains {kind}{_advice(path)}")
    return check_fields({"name": Path(path).stem, **fields}, settings)


def check_fields(fields: dict[str, Any], settings: Iterable[str] = ()) -> JobSpec:
    """The spec of these fields, after `key=value` settings. Raises JobFileError, with a line for each error."""
    fields = copy.deepcopy(fields)
    for setting in settings:
        _apply(fields, setting)
    if broken := next(_broken_texts(fields), None):
        raise JobFileError(f"{broken}: must be Unicode text, without half a character or bytes that are not UTF-8")
    try:
        return JobSpec.model_validate(fields)
    except pydantic.ValidationError as error:
        lines = explain_all(error.errors())
        num_more = len(lines) - MAX_FAULTS
        more = [f"and {num_more:,} more"] if num_more > 0 else []
        raise JobFileError("\n".join([*lines[:MAX_FAULTS], *more])) from error


def _read(path: str) -> str:
    """The file's text. Raises OSError, and ValueError for a pipe, more than 1 MiB, or bytes that are not UTF-8."""
    # Do not wait for the writer of a pipe. Windows has neither pipes among its files nor the flag.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(file.fileno(), True)
        if stat.S_ISFIFO(kind) and not path.startswith("/dev/fd/"):
            raise ValueError("is a pipe, not a file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"a job file has at most {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text: {error.reason} at byte {error.start:,}") from error


def _advice(path: str) -> str:
    """What to do with a file whose name says that it holds prompts."""
    return "; a file of prompts is given as --prompts PATH to `janus-batch render`" if format_of(path).ending else ""


def _apply(fields: dict[str, Any], setting: str) -> None:
    """Apply one `a.b=value`, with a YAML value. Messages do not show the value: it may be a secret."""
    key, sign, text = setting.partition("=")
    if not sign or not key.strip():
        raise JobFileError("--set takes key=value with a dotted key: --set sampling.seed=7" + shown_location(setting))
    *sections, last = key.strip().split(".")
    for section in sections:
        fields[section] = fields.get(section) if fields.get(section) is not None else {}
        fields = fields[section]
        if not isinstance(fields, dict):
            raise JobFileError(f"--set {key}: {section} is not a section")
    try:
        fields[last] = load_yaml(text)
    except ValueError as error:
        raise JobFileError(f"--set {key}: {error}") from error


def _broken_texts(value: Any, key: str = "") -> Iterator[str]:
    """The dotted key of each text that cannot be encoded. The values may be secrets."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _broken_texts(inner, f"{key}.{one_line(str(name))}".lstrip("."))
            yield from _broken_texts(name, f"{key}.{one_line(str(name))}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _broken_texts(inner, f"{key}.{number}")
    elif isinstance(value, str) and not is_unicode(value):
        yield key


def _kind_of(value: Any) -> str:
    kinds = {type(None): "nothing", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number")
