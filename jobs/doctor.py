"""`janus-batch doctor`: look a checkpoint over, from its files to whether its guidance does anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_checkpoint, open_vae
from actors.engines import Engine, load_engine
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.recipe import Recipe
from jobs.job_file.resolve import settled_model
from jobs.terminal.text import counted


def doctor(
    name: str, *, revision: str | None, vae: str | None, prompt_format: str | None, endpoint_url: str | None
) -> int:
    """Print a table of checks as they are made; 1 if one of them found a fault."""
    storage = {"endpoint_url": endpoint_url} if endpoint_url else {}
    num_faults = 0
    try:
        for check, is_ok, detail in _checks(settled_model(name), revision, vae, prompt_format, storage):
            num_faults += not is_ok
            click.echo(
                f"{click.style('ok   ', fg='green') if is_ok else click.style('FAULT', fg='red')}  {check:<22} {detail}"
            )
    except CheckpointError as error:
        num_faults += 1
        click.echo(f"{click.style('FAULT', fg='red')}  {'loading':<22} {error}")
    click.echo("no fault found" if not num_faults else f"{counted(num_faults, 'fault')} found")
    return 1 if num_faults else 0


def _checks(
    name: str, revision: str | None, vae: str | None, prompt_format: str | None, storage: dict[str, Any]
) -> Iterator[tuple[str, bool, str]]:
    """(check, is it as it should be, what was seen), cheapest first."""
    from actors.checkpoint.doctor import check_guidance, check_tokenizer

    checkpoint = open_checkpoint(name, revision=revision, storage_options=storage, prompt_format=prompt_format)
    if checkpoint.family == "toy":
        yield "family", True, "toy: there is nothing to look at"
        return
    num_bytes = sum(file.size for file in checkpoint.files)
    yield (
        "family",
        True,
        f"{checkpoint.family}, {checkpoint.layout} layout" + f" @ {checkpoint.revision}" * bool(checkpoint.revision),
    )
    yield "files", True, f"{len(checkpoint.files)} files, {num_bytes:,} bytes; {', '.join(checkpoint.weight_files)}"
    folder = fetch_checkpoint(name, checkpoint.revision, storage)
    assert checkpoint.prompt_format is not None, "every family but toy has one"
    for finding in check_tokenizer(folder, checkpoint.prompt_format):
        yield finding.check, finding.is_ok, finding.detail
    vae_checkpoint = None
    if checkpoint.family == "janusflow":
        vae_checkpoint = open_vae(vae, checkpoint, storage_options=storage)
        yield "vae", True, vae_checkpoint.name
    engine = _load(checkpoint, folder, vae_checkpoint, storage)
    yield "weights", True, "every tensor that generation needs is there, in the shape that config.json says"
    for finding in check_guidance(engine):
        yield finding.check, finding.is_ok, finding.detail


def _load(checkpoint: Checkpoint, folder: Path, vae: Checkpoint | None, storage: dict[str, Any]) -> Engine:
    """The engine in float32, which every device takes; no recipe is pinned here, so the weights are not hashed."""
    recipe = Recipe(
        family=checkpoint.family,
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha256="",
        prompt_format=checkpoint.prompt_format,
        vae=vae.name if vae else None,
        vae_revision=vae.revision if vae else None,
        vae_sha256=None,
        dtype="float32",
        sampler=FAMILIES[checkpoint.family].sampler,
        cfg_weights=(FAMILIES[checkpoint.family].default_cfg_weight,),
        temperature=None,
        num_inference_steps=None,
        images_per_prompt=1,
        seed=0,
    )
    vae_folder = fetch_checkpoint(vae.name, vae.revision, storage) if vae else None
    return load_engine(recipe, folder, vae_folder)
