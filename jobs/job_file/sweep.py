"""A sweep over adapters: one job for each, on the same prompts and seeds, into a folder of the output for each.

An actor holds one model, and the weights of a 7B model with an adapter are a model of their own. So a sweep is a series
of jobs, each of which is resumed, verified and exported by itself. Their images have the same ids and seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobs.job_file.errors import JobFileError
from jobs.job_file.sections.model import NO_ADAPTER, AdapterSection
from jobs.job_file.spec import JobSpec
from workflows.output.given_prompts import given_prompts_location
from workflows.storage.path import absolute_location, real_location


def jobs_of_sweep(spec: JobSpec) -> list[JobSpec]:
    """The jobs of a sweep, in its order; the job itself if it is none."""
    variants = spec.model.adapter or []
    if len(variants) < 2:
        return [spec]
    return [_job_of(spec, variant, label) for variant, label in zip(variants, _labels(variants), strict=True)]


def check_outputs_apart(jobs: Sequence[JobSpec]) -> None:
    """Raise JobFileError for different jobs of a command that have one output, before the first one is rendered."""
    first_of: dict[tuple[str, str], JobSpec] = {}
    for job in jobs:
        first = first_of.setdefault(real_location(absolute_location(job.output)), job)
        if _contents(first) != _contents(job):
            raise JobFileError(f"output: {first.name} and {job.name} are different jobs, and both have {job.output}")


def _contents(job: JobSpec) -> dict[str, Any]:
    """What decides the files of an output."""
    return job.model_dump(exclude={"name", "output", "workers", "on_done", "schedule"})


def _job_of(spec: JobSpec, variant: list[AdapterSection], label: str) -> JobSpec:
    output = f"{spec.output.rstrip('/')}/{label}"
    is_given = spec.prompts == given_prompts_location(spec.output)  # on the command line: each output keeps them
    return spec.model_copy(
        update={
            "name": f"{spec.name or 'render'} {label}",
            "output": output,
            "prompts": given_prompts_location(output) if is_given else spec.prompts,
            "model": spec.model.model_copy(update={"adapter": [variant]}),
        }
    )


def _labels(variants: Sequence[Sequence[AdapterSection]]) -> list[str]:
    """A folder name for each model: the last parts of its adapters' names, with weights other than 1."""
    labels = ["+".join(map(_label, variant)) or NO_ADAPTER for variant in variants]
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        labels[index] = label if seen[label] == 1 else f"{label}~{seen[label]}"
    return labels


def _label(section: AdapterSection) -> str:
    last = section.name.rstrip("/").rsplit("/", 1)[-1]
    name = "".join(character if character.isalnum() or character in "._-" else "-" for character in last)
    return name.lstrip(".") + (f"-{section.weight:g}" if section.weight != 1 else "")
