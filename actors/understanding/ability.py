"""Whether a checkpoint can look at images, by its config.json, its listing and the names of its tensors. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from actors.checkpoint.files import read_json
from actors.checkpoint.folder import LocalFolder
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.understanding.config import read_vision_shape
from actors.understanding.pixels import read_pixel_settings

PREPROCESSOR = "preprocessor_config.json"
INDEX_ENDING = ".index.json"
_TOWER = re.compile(r"(^|\.)(vision_model|vision_und_enc_model)\.")


def check_can_look(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, with the reason, for an opened checkpoint that cannot look at images.

    The names of tensors are read where an index or a file on this machine has them. Of other checkpoints, a missing
    tower is found when they are loaded.
    """
    if FAMILIES[checkpoint.family].looker is None:
        raise CheckpointError(f"{checkpoint.name}: models of its family render images and cannot look at them")
    if checkpoint.folder is None:
        return
    try:
        shape = read_vision_shape(checkpoint.config)
        if PREPROCESSOR not in checkpoint.folder.files():
            raise CheckpointError(f"it has no {PREPROCESSOR}, so this model cannot look at images")
        read_pixel_settings(read_json(checkpoint.folder, PREPROCESSOR), shape.image_size)
        names = _tensor_names(checkpoint)
        if names is not None and not any(_TOWER.search(name) for name in names):
            raise CheckpointError("its weight files hold no vision tower, so this model cannot look at images")
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error}") from error


def _tensor_names(checkpoint: Checkpoint) -> Iterable[str] | None:
    """The names of all tensors; None if they cannot be known without a download."""
    assert checkpoint.folder is not None
    for file in checkpoint.files:
        if file.name.endswith(INDEX_ENDING):
            names: Iterable[str] = read_json(checkpoint.folder, file.name).get("weight_map", {})
            return names
    is_here = isinstance(checkpoint.folder, LocalFolder)
    if is_here and all(name.endswith(".safetensors") for name in checkpoint.weight_files):
        return [name for file in checkpoint.weight_files for name in _names_in(checkpoint.path / file)]
    return None


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="np") as file:
            names: list[str] = list(file.keys())
            return names
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error
