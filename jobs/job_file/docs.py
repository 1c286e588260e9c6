"""The page about the job file, made from the spec's own descriptions.

`python -m jobs.job_file.docs > docs/job-file.md` writes it.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.job_file.spec import JobSpec, section_of

HEAD = """# The job file

YAML. Unknown keys are refused with the nearest known one; every refusal names the key, the rule and the value.
`janus-batch render JOB.yaml --set sampling.seed=7` changes a key for one run. Made by `python -m jobs.job_file.docs`.

| key | value | default | |
|---|---|---|---|"""

TAIL = """
Columns of the prompt file beside `prompt`: `id`, `seed`, `cfg_weight`, `temperature`, `num_inference_steps`,
`negative_prompt`. A row's own value beats the job's. In a sweep, a row with a weight of its own is rendered at that
weight only. An empty or null `negative_prompt` means the model's own unconditional prompt.

In a job file with a `schedule` section, `prompts` and `output` may hold `{date:FORMAT}` fields, such as
`{date:%Y-%m-%d}`: parts of the scheduled time ([schedule](schedule.md))."""


def page() -> str:
    return "\n".join([HEAD, *_rows(JobSpec, ""), TAIL]) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    """A table row for each key, sections opened up."""
    rows: list[str] = []
    for name, field in model.model_fields.items():
        if section := section_of(field.annotation):
            rows += _rows(section, f"{prefix}{name}.")
        else:
            rows.append(f"| `{prefix}{name}` | {_kind(field.annotation)} | {_default(field)} | {field.description} |")
    return rows


def _kind(annotation: Any) -> str:
    """A type as a person would say it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {_kind(arguments[0])}s"
    names = {str: "text", int: "whole number", float: "number", bool: "true, false"}
    return names.get(annotation, "keys and values")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(page(), end="")
