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
@options.endpoint_url
def doctor(checkpoint: str, **how: Any) -> int:
    """Check that a checkpoint is complete and that its guidance works. Exits with 1 on a fault."""
    from jobs.doctor import doctor

    return doctor(checkpoint, **how)
