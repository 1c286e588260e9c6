"""`janus-batch status`: print what an output holds and how many of its prompts remain, from storage alone."""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.terminal.text import counted
from workflows.output.claim import SUCCESS_FILE, open_output
from workflows.output.manifest import committed_parts
from workflows.output.remaining import plan_of
from workflows.output.tally import Tally, tally_output
from workflows.plan import SourceChangedError
from workflows.prompts import PromptsError
from workflows.storage.errors import storage_errors


def status(output: str, endpoint_url: str | None, *, as_json: bool) -> int:
    """Print the counts. Returns 0 if the output is finished and 1 while images are missing.

    Raises PromptsError or SourceChangedError, after what the output itself tells, if its prompts are gone or changed.
    """
    storage, claim = open_output(output, endpoint_url, may_hold_answers=True)
    with storage_errors(output):
        tally = tally_output(storage.url, storage.options)
        try:
            plan = plan_of(storage, claim, committed_parts(storage))
        except (PromptsError, SourceChangedError):
            if not as_json:
                _print_committed(claim.name, tally)
                click.echo("remaining  unknown")
                _print_rejected(tally)
            raise
        is_marked = storage.exists(SUCCESS_FILE)
    facts = {
        "name": claim.name,
        "num_images": tally.num_images,
        "num_rejected": tally.num_rejected,
        "num_images_remaining": plan.num_images_remaining(claim.recipe.images_per_row),
        "num_images_to_repair": plan.num_images_to_repair,
        "num_rows_remaining": plan.num_rows_remaining,
        "num_shards_committed": tally.num_shards,
        "num_shards_remaining": plan.num_shards_remaining,
        "is_finished": is_marked and not plan.num_shards_remaining,
        "reasons": dict(tally.reasons.most_common()),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print_facts(facts, tally)
    return 0 if facts["is_finished"] else 1


def _print_facts(facts: dict[str, Any], tally: Tally) -> None:
    _print_committed(facts["name"] + (" (finished)" if facts["is_finished"] else ""), tally)
    click.echo(
        f"remaining  {counted(facts['num_images_remaining'], 'image')} "
        f"of {counted(facts['num_rows_remaining'], 'prompt')} in {counted(facts['num_shards_remaining'], 'shard')}"
    )
    if facts["num_images_to_repair"]:
        num_images = counted(facts["num_images_to_repair"], "image")
        click.echo(f"           {num_images} of them: the file was missing or damaged, and the next run re-renders it")
    if not facts["num_shards_remaining"] and not facts["is_finished"]:
        click.echo("           the job is not marked finished: the next run checks the output and marks it")
    _print_rejected(tally)


def _print_committed(job: str, tally: Tally) -> None:
    click.echo(f"job        {job}")
    click.echo(f"committed  {counted(tally.num_images, 'image')} in {counted(tally.num_shards, 'shard')}")


def _print_rejected(tally: Tally) -> None:
    click.echo(f"rejected   {counted(tally.num_rejected, 'image')}")
    for reason, count in tally.reasons.most_common(10):
        click.echo(f"  {count:>6,}  {reason}")
