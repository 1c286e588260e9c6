"""`janus-batch status`: what an output holds and what is left of its prompts, from storage alone."""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.job_file.resolve import ignored_columns
from jobs.terminal.text import counted
from workflows.output.claim import SUCCESS_FILE, open_output
from workflows.output.manifest import committed_parts
from workflows.output.tally import tally_output
from workflows.plan import make_plan
from workflows.prompts import find_prompt_files
from workflows.storage.errors import storage_errors


def status(output: str, endpoint_url: str | None, *, as_json: bool) -> int:
    """Print the counts; 0 if nothing is left, 1 while images are missing."""
    storage, claim = open_output(output, endpoint_url)
    with storage_errors(output):
        files = find_prompt_files(claim.prompts, storage.options, ignored_columns=ignored_columns(claim.recipe.family))
        plan = make_plan(files, committed_parts(storage), claim.shard_rows)
        tally = tally_output(storage.url, storage.options)
        is_marked = storage.exists(SUCCESS_FILE)
    num_rows_left = plan.num_rows - plan.num_rows_committed
    facts = {
        "name": claim.name,
        "num_images": tally.num_images,
        "num_rejected": tally.num_rejected,
        "num_images_remaining": num_rows_left * claim.recipe.images_per_row,
        "num_rows_remaining": num_rows_left,
        "num_shards_committed": tally.num_shards,
        "num_shards_remaining": plan.num_shards_remaining,
        "is_finished": is_marked and not num_rows_left,
        "reasons": dict(tally.reasons.most_common()),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print_facts(facts)
    return 0 if facts["is_finished"] else 1


def _print_facts(facts: dict[str, Any]) -> None:
    click.echo(f"job        {facts['name']}" + (" (finished)" if facts["is_finished"] else ""))
    click.echo(
        f"committed  {counted(facts['num_images'], 'image')} in {counted(facts['num_shards_committed'], 'shard')}"
    )
    click.echo(
        f"remaining  {counted(facts['num_images_remaining'], 'image')} "
        f"of {counted(facts['num_rows_remaining'], 'prompt')} in {counted(facts['num_shards_remaining'], 'shard')}"
    )
    if not facts["num_rows_remaining"] and not facts["is_finished"]:
        click.echo("           the job was not ended: the next run looks at all of it once more and marks it finished")
    click.echo(f"rejected   {counted(facts['num_rejected'], 'image')}")
    for reason, count in list(facts["reasons"].items())[:10]:
        click.echo(f"  {count:>6,}  {reason}")
