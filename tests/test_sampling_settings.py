"""A sampling setting is one field of one record; the job file, job.json, requests and the manifest follow it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from actors.engines import FAMILIES
from actors.recipe import SAMPLING_SETTINGS, Recipe, SamplingSettings, sampling_settings
from actors.request import ImageRequest
from jobs.job_file.resolve import FAMILY_KEYS
from jobs.job_file.sections.sampling import SamplingSection
from tests.support.toy_job import make_job, manifest_of, recipe, render, rows_of, write_prompts
from workflows.output.manifest import MANIFEST_SCHEMA, settings_of_row

# A value of each setting that is not its default.
VALUES = SamplingSettings(
    cfg_interval=(0.25, 0.75), temperature=0.5, num_inference_steps=7, solver="heun", match_reference_demo=True
)


def test_the_values_of_this_test_are_no_defaults() -> None:
    defaults = sampling_settings(SamplingSettings())
    assert {name for name in SAMPLING_SETTINGS if getattr(VALUES, name) == defaults[name]} == set()


@pytest.mark.parametrize("name", SAMPLING_SETTINGS)
def test_every_setting_is_in_the_job_file_the_recipe_the_request_and_the_manifest(name: str) -> None:
    assert name in SamplingSection.model_fields
    assert name in {field.name for field in dataclasses.fields(Recipe)}
    assert name in {field.name for field in dataclasses.fields(ImageRequest)}
    assert name in recipe().to_dict()
    assert MANIFEST_SCHEMA.field(name).nullable


def test_the_manifest_stores_each_setting_in_the_type_of_its_field() -> None:
    assert [(name, MANIFEST_SCHEMA.field(name).type) for name in SAMPLING_SETTINGS] == [
        ("cfg_interval", pa.list_(pa.float64())),
        ("temperature", pa.float64()),
        ("num_inference_steps", pa.int32()),
        ("solver", pa.string()),
        ("match_reference_demo", pa.bool_()),
    ]


def test_families_take_no_settings_that_the_record_does_not_have() -> None:
    assert {name for family in FAMILIES.values() for name in family.settings} <= set(SAMPLING_SETTINGS)
    assert FAMILY_KEYS == ("temperature", "num_inference_steps", "solver", "match_reference_demo")


def test_the_recipes_settings_reach_the_requests_and_come_back_from_the_manifest(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"]})
    job = make_job(path, tmp_path / "out", recipe=recipe(**sampling_settings(VALUES)))

    ((request,),) = (rows.requests for rows in rows_of(job))
    render(job)
    (row,) = manifest_of(job)

    assert sampling_settings(request) == sampling_settings(VALUES)
    assert settings_of_row(row) == sampling_settings(VALUES)
