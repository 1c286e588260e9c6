"""Commands for checkpoints."""

from __future__ import annotations

from typing import Any

import click

from jobs.cli import options
from jobs.cli.completion import complete_checkpoints


@click.command(short_help="Check a checkpoint and its guidance.")
@click.argument("checkpoint", metavar="CHECKPOINT", shell_complete=complete_checkpoints)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option("--vae", metavar="NAME", help="JanusFlow: the VAE, if the checkpoint's folder has none.")
@click.option("--prompt-format", type=click.Choice(["janus", "janus-pro"]), help="Default: read from the checkpoint.")
@options.settings_of_model
@options.endpoint_url
@options.as_json
@options.quiet
def doctor(checkpoint: str, **how: Any) -> int:
    """Say what a model folder is and whether it can be rendered with. Exits with 1 on a fault.

    Names the family, the published model, its role tags and the dtype of its weights, checks that it is complete and
    that its guidance works, compares both pairs of role tags where they are a guess, and estimates the throughput here.
    """
    from jobs.doctor import doctor

    return doctor(checkpoint, **how)
