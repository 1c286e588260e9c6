"""`janus-batch doctor`: examine a checkpoint, from its files to its image decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from actors.checkpoint.doctor import Finding, check_guidance, check_image_decoder, check_tokenizer
from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_checkpoint, open_vae
from actors.engines import Engine, load_engine
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.recipe import Recipe
from jobs.job_file.resolve import absolute_model_name
from jobs.terminal.text import counted


def doctor(
    name: str, *, revision: str | None, vae: str | None, prompt_format: str | None, endpoint_url: str | None
) -> int:
    """Print a table of checks as they are made; 1 if one of them found a fault."""
    storage = {"endpoint_url": endpoint_url} if endpoint_url else {}
    num_faults = 0
    try:
        for finding in _findings(absolute_model_name(name), revision, vae, prompt_format, storage):
            num_faults += not finding.is_ok
            _print(finding)
    except CheckpointError as error:
        num_faults += 1
        _print(Finding(check="loading", is_ok=False, detail=str(error)))
    click.echo("no fault found" if not num_faults else f"{counted(num_faults, 'fault')} found")
    return 1 if num_faults else 0


def _findings(
    name: str, revision: str | None, vae: str | None, prompt_format: str | None, storage: dict[str, Any]
) -> Iterator[Finding]:
    """The cheapest checks first."""
    checkpoint = open_checkpoint(name, revision=revision, storage_options=storage, prompt_format=prompt_format)
    if checkpoint.folder is None:
        yield Finding(check="family", is_ok=True, detail=f"{checkpoint.family}: it has no checkpoint to examine")
        return
    yield from _look_at(checkpoint)
    models = [fetch_checkpoint(checkpoint)]
    yield from check_tokenizer(models[0])
    if FAMILIES[checkpoint.family].decodes_with_vae:
        models.append(fetch_checkpoint(open_vae(vae, checkpoint, storage_options=storage)))
        yield Finding(check="vae", is_ok=True, detail=models[1].name)
    engine = _load(*models)
    yield Finding(
        check="weights", is_ok=True, detail="every tensor that generation needs is there, in the shape of config.json"
    )
    yield from check_guidance(engine)
    yield from check_image_decoder(engine)


def _print(finding: Finding) -> None:
    verdict = click.style("ok   ", fg="green") if finding.is_ok else click.style("FAULT", fg="red")
    click.echo(f"{verdict}  {finding.check:<22} {finding.detail}")


def _look_at(checkpoint: Checkpoint) -> Iterator[Finding]:
    family = f"{checkpoint.family}, {checkpoint.layout} layout"
    commit = f" @ {checkpoint.revision}" if checkpoint.revision else ""
    yield Finding(check="family", is_ok=True, detail=family + commit)
    num_bytes = sum(file.size for file in checkpoint.files)
    names = ", ".join(checkpoint.weight_files)
    yield Finding(check="files", is_ok=True, detail=f"{len(checkpoint.files)} files, {num_bytes:,} bytes; {names}")


def _load(checkpoint: Checkpoint, vae: Checkpoint | None = None) -> Engine:
    """The engine in float32, which every device has."""
    family = FAMILIES[checkpoint.family]
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
        sampler=family.sampler,
        cfg_weights=(family.default_cfg_weight,),
        images_per_prompt=1,
        seed=0,
    )
    return load_engine(recipe, *([checkpoint] if vae is None else [checkpoint, vae]))
