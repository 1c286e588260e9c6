"""What `model.adapter` means, and the jobs of a sweep over adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from jobs.job_file.spec import JobSpec
from jobs.job_file.sweep import check_outputs_apart, jobs_of_sweep


def spec_of(adapter: Any) -> JobSpec:
    model = {"checkpoint": "janus-shapes", "adapter": adapter}
    return check_fields({"name": "n", "prompts": "p.parquet", "output": "out/", "model": model})


def variants(adapter: Any) -> list[list[tuple[str, float]]]:
    return [[(one.name, one.weight) for one in variant] for variant in spec_of(adapter).model.adapter or []]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a", [[("a", 1.0)]]),
        ({"name": "a", "weight": 0.5}, [[("a", 0.5)]]),
        ([{"name": "a"}, {"name": "b", "weight": 2}], [[("a", 1.0), ("b", 2.0)]]),
        (["none", "a", "b"], [[], [("a", 1.0)], [("b", 1.0)]]),
        (["a"], [[("a", 1.0)]]),
        ([None, {"name": "a", "weight": 0.5}], [[], [("a", 0.5)]]),
        ([["a", {"name": "b"}], "none"], [[("a", 1.0), ("b", 1.0)], []]),
        ("none", [[]]),
        (None, []),
    ],
)
def test_sections_are_merged_together_and_names_are_a_sweep(written: Any, meant: Any) -> None:
    assert variants(written) == meant


def test_a_job_file_that_was_recorded_means_the_same() -> None:
    spec = spec_of([[{"name": "a"}, {"name": "b"}], "none"])
    assert check_fields(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], "model.adapter: must be a name, a section with name and weight, or a list of them"),
        (7, "model.adapter: must be a name"),
        ([7], "adapter"),
        ({"weight": 1.0}, "model.adapter.0.0.name: this key is required"),
        ({"name": "a", "weight": float("inf")}, "model.adapter.0.0.weight: Input should be a finite number"),
        ({"name": "a", "scale": 1.0}, "unknown key"),
    ],
)
def test_anything_else_is_refused(written: Any, message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        spec_of(written)


def test_a_sweep_is_a_job_for_each_model_with_a_folder_of_its_own() -> None:
    jobs = jobs_of_sweep(spec_of(["none", "lab/a", {"name": "loras/a", "weight": 0.5}, ["x/a", "y/b c"], "other/a"]))
    assert [job.output for job in jobs] == ["out/none", "out/a", "out/a-0.5", "out/a+b-c", "out/a~2"]
    assert [job.name for job in jobs] == ["n none", "n a", "n a-0.5", "n a+b-c", "n a~2"]
    assert {(job.prompts, job.sampling) for job in jobs} == {("p.parquet", jobs[0].sampling)}


def test_a_job_without_a_sweep_stays_as_it_is() -> None:
    for adapter in (None, "a", ["a"]):
        spec = spec_of(adapter)
        assert jobs_of_sweep(spec) == [spec]


def test_a_sweep_is_no_single_job() -> None:
    with pytest.raises(JobFileError, match="a sweep of 2 models has an output for each; `janus-batch render`"):
        resolve(spec_of(["none", "a"]), num_gpus=0)


def test_a_family_without_weights_takes_no_adapter() -> None:
    spec = check_fields({"prompts": "/p", "output": "/o", "model": {"checkpoint": "toy", "adapter": "a"}})
    with pytest.raises(ValueError, match="toy has no weights that an adapter could be merged into"):
        resolve(spec, num_gpus=0)


@pytest.mark.parametrize("spelling", ["./out", "out/", "sub/../out", "{here}/out", "file://{here}/out", "link/out"])
def test_different_jobs_with_one_output_are_refused_before_the_first(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    fields = {"prompts": "p.parquet", "output": "out", "model": {"checkpoint": "toy"}}
    again = {**fields, "output": spelling.format(here=tmp_path)}

    with pytest.raises(JobFileError, match=r"^output: a and b are different jobs, and both have"):
        check_outputs_apart([check_fields({**fields, "name": "a"}), check_fields({**again, "name": "b", "limit": 3})])
    check_outputs_apart([check_fields({**fields, "name": "a"}), check_fields({**again, "name": "b"})])
    check_outputs_apart([check_fields(fields), check_fields({**fields, "output": "out-2", "limit": 3})])
