"""The options of `submit` that `render` gets on the cluster mean the same there."""

from __future__ import annotations

import click
import pytest

from jobs.cli.main import cli
from jobs.job_file.read import check_fields
from jobs.submit.submit import Submission, render_options
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
