"""A job file with a comment for each key: the description of the key in `jobs.job_file.sections`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from jobs.job_file.sections.base import section_of
from jobs.job_file.spec import JobSpec

WIDTH = 100


def commented_yaml(fields: Mapping[str, Any], head: str) -> str:
    """`head` as comments, then the keys of `fields` in the order of the job file, each below its description."""
    return "\n".join([*(f"# {line}".rstrip() for line in head.splitlines()), *_lines(fields, JobSpec, "")]) + "\n"


def _lines(fields: Mapping[str, Any], model: type[BaseModel], indent: str) -> Iterator[str]:
    for number, key in enumerate(key for key in model.model_fields if key in fields):
        field = model.model_fields[key]
        if number or model is JobSpec:
            yield ""
        if section := section_of(field.annotation):
            yield f"{indent}{key}:"
            yield from _lines(fields[key], section, indent + "  ")
        else:
            comment = f"{indent}# "
            yield from textwrap.wrap(
                field.description or "",
                WIDTH,
                initial_indent=comment,
                subsequent_indent=comment,
                break_long_words=False,
                break_on_hyphens=False,
            )
            yield f"{indent}{key}: {_scalar(fields[key])}"


def _scalar(value: Any) -> str:
    """The value on one line, in quotes where YAML needs them."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("\n").removesuffix("\n...")
