"""Finds a CLIP or SigLIP model, by its config.json and its listing. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.checkpoint.files import TEXT_MODEL_STEMS, check_readable, find_weight_files, read_json
from actors.checkpoint.find import find_folder
from actors.checkpoint.name import read_model_name
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError, shown

MODEL_TYPES = ("clip", "siglip", "siglip2")
_SETTINGS = (
    *("config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "spiece.model"),
)


def open_clip_checkpoint(
    name: str, *, revision: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Checkpoint:
    """A model that compares images with text: a local folder, a URL or a hub id, whose revision is pinned to a commit.

    Raises CheckpointError for a model of another type, and for a folder without weights or a tokenizer.
    """
    model = read_model_name(name, revision)
    folder = find_folder(model.name, revision=model.revision, storage_options=storage_options)
    config = read_json(folder, "config.json")
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder.name} is a model of type {shown(model_type)}; allowed are {', '.join(MODEL_TYPES)}"
        )
    weights, files = find_weight_files(folder, TEXT_MODEL_STEMS), folder.files()
    if not files.keys() & {"tokenizer.json", "vocab.json", "spiece.model"}:
        raise CheckpointError(f"{folder.name} is incomplete: it holds no tokenizer.json, vocab.json or spiece.model")
    if "preprocessor_config.json" not in files and "processor_config.json" not in files:
        raise CheckpointError(f"{folder.name} is incomplete: it holds no preprocessor_config.json")
    names = [*(name for name in _SETTINGS if name in files), *filter(None, [weights.index]), *weights.names]
    for file_name in names:
        check_readable(folder, file_name)
    return Checkpoint(
        name=folder.name,
        revision=folder.revision,
        family=model_type,
        layout="transformers",
        config=config,
        files=tuple(files[file_name] for file_name in names),
        weight_files=weights.names,
        folder=folder,
        note=weights.note,
    )
