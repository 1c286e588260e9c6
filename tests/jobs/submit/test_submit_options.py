"""What `submit` sends means the same on the cluster: the options of `render`, and the paths that are uploaded."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from jobs.cli.main import cli
from jobs.job_file.read import check_fields
from jobs.submit.submit import Submission, relative_paths, render_options
from workflows.output.acceptance import read_rejection_limit

SPEC = check_fields({"prompts": "s3://bucket/prompts", "output": "s3://bucket/out", "model": {"checkpoint": "toy"}})


@pytest.mark.parametrize("limit", ["5%", "0.25%", "33.3333333%", "0", "1000000"])
def test_the_limits_of_an_accepted_output_are_sent(limit: str) -> None:
    submission = Submission(max_rejected=read_rejection_limit(limit), allow_empty=True)

    options = render_options(["sampling.seed=7"], submission, SPEC)

    assert options == ["--set", "sampling.seed=7", "--max-rejected", limit, "--allow-empty"]
    command = cli.get_command(click.Context(cli), "render")
    assert command is not None
    sent = command.make_context("render", ["job.yaml", *options]).params
    assert (sent["max_rejected"], sent["allow_empty"]) == (submission.max_rejected, True)


def test_nothing_is_sent_without_options() -> None:
    assert render_options([], Submission(), SPEC) == []


def test_every_relative_path_of_a_job_file_is_uploaded_or_refused(tmp_path: Path) -> None:
    (tmp_path / "ck").mkdir()
    model = {"checkpoint": "ck", "vae": "./vae", "adapter": ["org/name", "./lora"]}
    fields = {"prompts": "p/*.csv", "output": "s3://bucket/out", "model": model, "judge": {"checkpoint": "./judge"}}
    looking = {"task": "understand", "understand": {"root": "images"}, "model": {"checkpoint": "janus-shapes"}}

    assert relative_paths(check_fields(fields), tmp_path) == {
        "prompts": "p/*.csv",
        "model.checkpoint": "ck",
        "model.vae": "./vae",
        "model.adapter 2": "./lora",
        "judge.checkpoint": "./judge",
    }
    looks = check_fields({"prompts": "/shared/p.csv", "output": "s3://bucket/out", **looking})
    assert relative_paths(looks, tmp_path) == {"understand.root": "images"}
