"""Checkpoints that the tests of engines, weights and shapes share: the tiny ones, opened, and published configs."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

from actors.checkpoint.files import VAE_STEMS, find_weight_files, read_json
from actors.checkpoint.folder import LocalFolder
from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_checkpoint, open_vae
from actors.prompt.template import PromptTemplate

DATA = Path(__file__).parents[1] / "data"
TINY, FLOW = DATA / "janus-tiny", DATA / "janusflow-tiny"


def fetched(
    folder: Path, prompt_format: str | None = None, prompt_template: PromptTemplate | None = None
) -> Checkpoint:
    """The checkpoint in a folder on this machine, as an engine gets it."""
    return fetch_checkpoint(open_checkpoint(str(folder), prompt_format=prompt_format, prompt_template=prompt_template))


def fetched_vae(checkpoint: Checkpoint) -> Checkpoint:
    """The VAE inside a checkpoint's folder."""
    return fetch_checkpoint(open_vae(None, checkpoint))


def vae_in(folder: Path) -> Checkpoint:
    """The VAE in a folder on this machine, without a checkpoint that it has to fit."""
    local = LocalFolder(folder, str(folder))
    config, weights = read_json(local, "config.json"), find_weight_files(local, VAE_STEMS)
    return Checkpoint(name=str(folder), family="vae", config=config, weight_files=weights.names, folder=local)


def published(model: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """config.json and the shape of every tensor in the weight files of a published checkpoint."""
    record = json.loads(gzip.decompress((DATA / "real_shapes" / f"{model}.json.gz").read_bytes()))
    return record["config"], {name: tuple(shape) for name, shape in record["state_dict"].items()}


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a config.json with the setting at a dotted path replaced."""
    config = copy.deepcopy(config)
    section = config
    *parents, key = path.split(".")
    for parent in parents:
        section = section[parent]
    section[key] = value
    return config
