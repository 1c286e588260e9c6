"""The job that keywords describe: sampling settings by their own names, sections of the job file as dicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from actors.errors import one_line, shown
from jobs.job_file.errors import JobFileError
from jobs.job_file.faults import sections_with, similar_key
from jobs.job_file.read import check_fields
from jobs.job_file.sections.sampling import SamplingSection
from jobs.job_file.spec import MAX_NAME_LENGTH, JobSpec
from workflows.storage.path import absolute_location

SAMPLING_KEYS = tuple(SamplingSection.model_fields)
# `prompts` and `output` are arguments of their own, and a schedule is for a process that runs on.
JOB_KEYS = tuple(key for key in JobSpec.model_fields if key not in ("prompts", "output", "schedule"))


def job_of(
    prompts: str, checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], keys: Mapping[str, Any]
) -> JobSpec:
    """The job, named after its output folder unless `name` is given. Raises JobFileError and LocationError."""
    sampling = {key: value for key, value in keys.items() if key in SAMPLING_KEYS}
    rest = {key: value for key, value in keys.items() if key not in SAMPLING_KEYS}
    for key in rest:
        if key not in JOB_KEYS:
            raise JobFileError(_unknown(key))
    location = absolute_location(os.fspath(output), "output")
    fields = {
        "name": location.rpartition("/")[2][:MAX_NAME_LENGTH] or "render",
        **rest,
        "prompts": prompts,
        "output": location,
        "model": _merged("model", rest.get("model"), {"checkpoint": checkpoint}),
        "sampling": _merged("sampling", rest.get("sampling"), sampling),
    }
    return check_fields({key: plain(value, key) for key, value in fields.items()})


def plain(value: Any, name: str) -> Any:
    """The value as YAML would give it: lists for tuples, text for paths, Python's numbers for numpy's.

    Raises JobFileError for a value that YAML does not have.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, range) or (type(value).__module__.startswith("pandas.") and hasattr(value, "tolist")):
        return list(value)
    if value is not None and not isinstance(value, str | bytes | bool | int | float):
        raise JobFileError(f"{name}: must be text, numbers, booleans, or lists and dicts of them, got {shown(value)}")
    return value


def _merged(section: str, given: Any, keys: dict[str, Any]) -> Any:
    """A section as given, with keys that have arguments of their own."""
    if given is None:
        return keys
    if not isinstance(given, Mapping):
        return given  # refused with the rule for sections
    for key in keys:
        if key in given:
            raise JobFileError(f"{section}.{key}: given twice, in `{section}` and as an argument `{key}`")
    return {**given, **keys}


def _unknown(key: str) -> str:
    if similar := similar_key(key, (*SAMPLING_KEYS, *JOB_KEYS)):
        return f"{one_line(key)}: unknown key; did you mean `{similar}`?"
    if places := [f"{name}={{{inner!r}: ...}}" for name, inner in sections_with(key) if name in JOB_KEYS]:
        return f"{one_line(key)}: unknown key; did you mean {' or '.join(places)}?"
    return (
        f"{one_line(key)}: unknown key; allowed are the settings of sampling ({', '.join(SAMPLING_KEYS)}) and the keys "
        f"of a job file ({', '.join(JOB_KEYS)}), such as workers={{'max': 2}}"
    )
