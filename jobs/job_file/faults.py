"""One line for each error that pydantic finds in a job file: the dotted key, the rule, the value."""

from __future__ import annotations

import difflib
import math
import re
import typing
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from actors.errors import one_line
from jobs.job_file.sections.base import BETWEEN_FAULT, SECRET_FAULT, section_of
from jobs.job_file.spec import JobSpec
from workflows.storage.credentials import secret_in

_SHOULD_BE = re.compile(r"(?P<key>[^:]+): Input should be (?P<kind>a valid [a-z ]+), got (?P<value>.*)", re.DOTALL)

NOT_SHOWN = "a value that is not shown because it may contain a secret"
STORE_KEYS = ("endpoint_url",)  # of `storage`; its other keys are those of the store
# What other programs call the settings.
OTHER_NAMES = {
    **dict.fromkeys(("steps", "num_steps", "inference_steps"), "num_inference_steps"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance", "guidance_scale", "guidance_weight"), "cfg_weight"),
    **dict.fromkeys(("n", "num_images", "num_images_per_prompt", "samples_per_prompt"), "images_per_prompt"),
}
# Keys that users write to change the image size. The models are trained for one size only.
SIZE_KEYS = frozenset({"width", "height", "size", "image_size", "img_size", "resolution"})


def explain_all(faults: Iterable[ErrorDetails]) -> list[str]:
    """A line for each error. What a value of several allowed types should be is one line."""
    lines: list[str] = []
    for line in map(explain, faults):
        other = _SHOULD_BE.fullmatch(lines[-1]) if lines else None
        found = _SHOULD_BE.fullmatch(line)
        if other and found and (other["key"], other["value"]) == (found["key"], found["value"]):
            kinds = f"{other['kind']} or {found['kind']}".replace("a valid list", "a list in [brackets]")
            lines[-1] = f"{found['key']}: Input should be {kinds}, got {found['value']}"
        else:
            lines.append(line)
    return list(dict.fromkeys(lines))


def explain(fault: ErrorDetails) -> str:
    """One line for one error. A value that may contain a secret is not shown."""
    path, kind, rule = [one_line(str(part)) for part in fault["loc"]], fault["type"], fault["msg"]
    if kind == "extra_forbidden":
        return f"{'.'.join(path)}: {_unknown_key(path)}"
    key = ".".join(part for part in path if not _is_union_branch(part))
    if kind == "missing":
        return f"{key}: this key is required"
    if kind == BETWEEN_FAULT:
        return rule
    if kind == SECRET_FAULT:
        return f"{key}: {rule}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        rule = "must be a section with keys and values"
    if fault["input"] is None:
        return f"{key}: has no value; {rule}"
    value = NOT_SHOWN if path[0] == "on_done" else _shown(fault["input"])  # a command may have secrets of any form
    return f"{key}: {rule.removeprefix('Value error, ')}, got {value}"


def similar_key(key: str, known: Iterable[str]) -> str | None:
    """The known key that is most likely meant."""
    known = list(known)
    if (name := OTHER_NAMES.get(key.lower())) in known:
        return name
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def sections_with(key: str) -> list[tuple[str, str]]:
    """The sections of a job file that have this key, each with the key's name there."""
    name, found = OTHER_NAMES.get(key.lower(), key), []
    for section, field in JobSpec.model_fields.items():
        model = section_of(field.annotation)
        keys: Collection[str] = model.model_fields if model else STORE_KEYS if section == "storage" else ()
        found += [(section, one) for one in dict.fromkeys((key, name)) if one in keys]
    return found


def _unknown_key(path: list[str]) -> str:
    if path[-1] in SIZE_KEYS:
        return "a checkpoint renders images of one size only (Janus, Janus-Pro and JanusFlow: 384 x 384)"
    if len(path) == 1 and (places := sections_with(path[0])):
        return f"unknown key; did you mean {' or '.join(f'`{section}.{key}`' for section, key in places)}?"
    known = _known_keys(path[:-1])
    similar = similar_key(path[-1], known)
    hint = f"did you mean `{similar}`?" if similar else f"allowed are {', '.join(known)}"
    return f"unknown key; {hint}"


def _shown(value: Any) -> str:
    if secret_in(value) is not None:
        return NOT_SHOWN
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return one_line(repr(value))


def _is_union_branch(part: str) -> bool:
    """Whether this part of the location is a branch of a union, which pydantic adds, and not a key."""
    return part in {"float", "int", "str"} or part.startswith(("list[", "literal[", "constrained"))


def _known_keys(sections: list[str]) -> list[str]:
    """The keys allowed in a section of the job file."""
    model: type[BaseModel] = JobSpec
    for section in sections:
        if not section.isdecimal():  # the number of an item in a list
            model = typing.cast(type[BaseModel], _section_in(model.model_fields[section].annotation))
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, or of the sections in a list."""
    inside = (_section_in(argument) for argument in typing.get_args(annotation))
    return section_of(annotation) or next(filter(None, inside), None)
