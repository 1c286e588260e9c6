"""A job from options alone: what it resolves to, and the combinations of options that are refused."""

from __future__ import annotations

from typing import Any

import click
import pytest

from jobs.job_file.errors import JobFileError
from jobs.job_file.one_line import one_line_spec
from jobs.job_file.spec import JobSpec
from workflows.storage.path import LocationError


def spec_of(*settings: str, job_files: tuple[str, ...] = (), **given: Any) -> JobSpec:
    options = {"prompts": ("a fox",), "prompts_path": None, "checkpoint": "toy", "output": "/data/out", **given}
    return one_line_spec(job_files, settings, **options)


def test_the_job_has_the_options_and_is_named_after_its_output() -> None:
    spec = spec_of(output="s3://bucket/renders/foxes/")

    assert (spec.name, spec.output) == ("foxes", "s3://bucket/renders/foxes")
    assert spec.prompts == "s3://bucket/renders/foxes/prompts/prompt.parquet"
    assert spec.model.checkpoint == "toy"


def test_any_other_key_is_set_by_set() -> None:
    spec = spec_of("sampling.cfg_weight=[1, 7]", "name=mine", "images.format=webp")

    assert (spec.sampling.cfg_weight, spec.name, spec.images.format) == ([1, 7], "mine", "webp")


def test_prompt_files_take_the_place_of_prompts() -> None:
    assert spec_of(prompts=(), prompts_path="s3://bucket/*.parquet").prompts == "s3://bucket/*.parquet"


@pytest.mark.parametrize("output", ["/", "~", ".", "a b", "🦊"])
def test_every_folder_makes_a_name(output: str) -> None:
    assert spec_of(output=output).name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"job_files": ("job.yaml",)}, "either job files or --prompt, .* not both"),
        ({"job_files": ("a fox",)}, "not both: there is no file a fox, and a prompt follows --prompt"),
        ({"prompts": ()}, "give JOB.yaml, or --prompt, or --prompts PATH"),
        ({"prompts_path": "a.parquet"}, "one of them only"),
        ({"checkpoint": None}, "needs --checkpoint NAME: janus-batch render --prompt"),
        ({"output": None}, "needs --output FOLDER"),
        ({"prompts": ("a", " \n")}, "must not be empty, number 2 is"),
        ({"prompts": ("caf\udce9",)}, "must be UTF-8 text, number 1 is not"),
    ],
)
def test_options_that_make_no_job_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        spec_of(**given)


@pytest.mark.parametrize("setting", ["output=/elsewhere", "prompts=/other.parquet"])
def test_set_cannot_move_the_output_or_the_prompts(setting: str) -> None:
    with pytest.raises(click.UsageError, match="--set changes neither prompts nor output here"):
        spec_of(setting)


def test_a_wrong_value_is_refused_as_in_a_job_file() -> None:
    with pytest.raises(JobFileError, match=r"sampling\.seeds: unknown key; did you mean `seed`"):
        spec_of("sampling.seeds=1")
    with pytest.raises(LocationError, match="--output: variables such as"):
        spec_of(output="$HOME/out")
    with pytest.raises(LocationError, match="--output: must not be empty"):
        spec_of(output="")
