"""Opens everything that a job renders with: the checkpoint, the adapters that are merged into it, and the VAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from actors.checkpoint.adapter import open_adapter
from actors.checkpoint.open import Checkpoint, open_checkpoint, open_vae
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.prompt.template import PromptTemplate
from actors.recipe import Adapter


def open_models(
    name: str,
    *,
    revision: str | None = None,
    prompt_format: str | None = None,
    prompt_template: PromptTemplate | None = None,
    adapters: Sequence[Adapter] = (),
    vae: str | None = None,
    vae_revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Checkpoint, Checkpoint | None]:
    """Open a checkpoint with its adapters and, if its family decodes with one, the VAE. Raises CheckpointError."""
    checkpoint = open_checkpoint(
        name,
        revision=revision,
        prompt_format=prompt_format,
        prompt_template=prompt_template,
        storage_options=storage_options,
    )
    checkpoint = with_adapters(checkpoint, adapters, storage_options=storage_options)
    if not FAMILIES[checkpoint.family].decodes_with_vae:
        return checkpoint, None
    return checkpoint, open_vae(vae, checkpoint, revision=vae_revision, storage_options=storage_options)


def with_adapters(
    checkpoint: Checkpoint, adapters: Sequence[Adapter], *, storage_options: Mapping[str, Any] | None = None
) -> Checkpoint:
    """The same checkpoint with these adapters, which are merged while its weights are read. Raises CheckpointError."""
    if not adapters:
        return checkpoint
    if checkpoint.folder is None:
        raise CheckpointError(f"{checkpoint.family} has no weights that an adapter could be merged into")
    opened = (
        (open_adapter(one.name, revision=one.revision, storage_options=storage_options), one.weight) for one in adapters
    )
    return dataclasses.replace(checkpoint, adapters=tuple(opened))
