"""What pydantic finds wrong with a job file, in one line for each fault: the dotted key, the rule, the value."""

from __future__ import annotations

import difflib
import math
import typing

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from jobs.job_file.credentials import SECRET_FAULT
from jobs.job_file.spec import BETWEEN_FAULT, JobSpec, section_of

# What people write who want another picture size; the models garble every size they were not trained at.
SIZE_KEYS = frozenset({"width", "height", "size", "image_size", "img_size", "resolution"})


def explain(fault: ErrorDetails) -> str:
    """One line for one fault: the dotted key, the rule, the value."""
    path = [str(part) for part in fault["loc"]]
    if fault["type"] != "extra_forbidden":
        path = [part for part in path if not _is_union_branch(part)]
    key = ".".join(path)
    if fault["type"] == "extra_forbidden" and path[-1] in SIZE_KEYS:
        return (
            f"{key}: a checkpoint renders pictures of one size (Janus, Janus-Pro and JanusFlow: 384 x 384) and no other"
        )
    if fault["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"allowed are {', '.join(known)}"
        return f"{key}: there is no such key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: this key is needed"
    if fault["type"] == BETWEEN_FAULT:
        return str(fault["msg"])
    if fault["type"] == SECRET_FAULT:
        return f"{key}: {fault['msg']}"  # the value is not shown
    value = fault["input"]
    shown = "nan" if isinstance(value, float) and math.isnan(value) else repr(value)
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}, got {shown}"


def _is_union_branch(part: str) -> bool:
    """pydantic names the tried branch of a union in the location; a person never wrote it."""
    return part in {"float", "int", "str"} or part.startswith(("list[", "literal[", "constrained"))


def _known_keys(sections: list[str]) -> list[str]:
    """The keys allowed in a section of the job file."""
    model: type[BaseModel] = JobSpec
    for section in sections:
        model = typing.cast(type[BaseModel], section_of(model.model_fields[section].annotation))
    return list(model.model_fields)
