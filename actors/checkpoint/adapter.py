"""Opens a LoRA adapter as PEFT saves it, without reading weights: its settings, files and digest. No torch.

The settings and file names are those of https://github.com/huggingface/peft, `LoraConfig` and `save_pretrained`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkpoint.files import find_weight_files, read_json
from actors.checkpoint.find import find_folder
from actors.checkpoint.kinds import ADAPTER_CONFIG
from actors.checkpoint.name import read_model_name
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError, one_line, shown

_STEMS = ("adapter_model", "adapter_model")
_MAX_RANK = 2**14
_MAX_PATTERN = 500  # characters

# Settings that say how an adapter was trained or found, or that its tensors show by themselves.
_WITHOUT_EFFECT = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"),
    *("layers_pattern", "megatron_core", "eva_config", "qalora_group_size", "ensure_weight_tying"),
    *("bias", "use_dora"),
    "fan_in_fan_out",  # PEFT sets it aside for torch.nn.Linear, the only kind of matrix in these models
}
_READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
_SOUND_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # those that leave the base weights as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """The settings of an adapter_config.json that decide what is added to a matrix."""

    rank: int
    alpha: float
    uses_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern_of(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of `B @ A` for a module: alpha / r, or alpha / sqrt(r) with rank stabilization (rsLoRA)."""
        alpha, rank = self.alpha_pattern.get(_pattern_of(self.alpha_pattern, module), self.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.uses_rslora else rank)


def open_adapter(
    name: str, *, revision: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Find and check an adapter; `name` is written like a checkpoint's.

    Its `weight_files`, which the digest covers, include adapter_config.json: the numbers depend on it. Raises
    CheckpointError for a folder that holds no adapter, and for a setting that merging does not implement.
    """
    model = read_model_name(name, revision)
    folder = find_folder(model.name, revision=model.revision, storage_options=storage_options)
    config = read_json(folder, ADAPTER_CONFIG, kind="an adapter as PEFT saves it")
    read_settings(config, folder.name)
    weights, files = find_weight_files(folder, _STEMS), folder.files()
    names = (ADAPTER_CONFIG, *weights.names)
    return Checkpoint(
        name=model.name,
        revision=folder.revision,
        family="adapter",
        layout="peft",
        config=config,
        files=tuple(files[file] for file in names),
        weight_files=names,
        folder=folder,
        note=weights.note,
    )


def read_settings(config: Mapping[str, Any], name: str) -> LoraSettings:
    """The settings of an adapter_config.json; messages call the adapter `name`. Raises CheckpointError."""
    if config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(
            f"{name} is an adapter of type {shown(config['peft_type'])}; only those of type LORA can be merged"
        )
    _check_is_implemented(config, name)
    return LoraSettings(
        rank=_rank(config.get("r", 8), f"r of {name}"),
        alpha=_number(config.get("lora_alpha", 8), f"lora_alpha of {name}"),
        uses_rslora=config.get("use_rslora") is True,
        rank_pattern={key: _rank(value, f"rank_pattern of {name}") for key, value in _pattern(config, "rank", name)},
        alpha_pattern={
            key: _number(value, f"alpha_pattern of {name}") for key, value in _pattern(config, "alpha", name)
        },
    )


def _check_is_implemented(config: Mapping[str, Any], name: str) -> None:
    """Refuse, by its name, every setting that is neither read nor known to have no effect on what is added."""
    start = config.get("init_lora_weights")
    if start not in _SOUND_STARTS:
        raise CheckpointError(
            f"{name} was trained with init_lora_weights: {shown(start)}, which changes the base weights; save it with "
            "PEFT's path_initial_model_for_weight_conversion first"
        )
    for key, value in config.items():
        if value and key not in _WITHOUT_EFFECT | _READ:
            raise CheckpointError(
                f"{name} sets {one_line(key)} to {shown(value)}, which merging does not implement; merge it into a "
                "checkpoint of its own with PEFT's merge_and_unload"
            )


def _pattern(config: Mapping[str, Any], kind: str, name: str) -> list[tuple[str, Any]]:
    """The entries of rank_pattern or alpha_pattern, whose keys are regular expressions."""
    entries = config.get(f"{kind}_pattern") or {}
    if not isinstance(entries, dict):
        raise CheckpointError(f"{kind}_pattern of {name} must be an object, got {shown(entries)}")
    for key in entries:
        try:
            re.compile(key)
        except re.error as error:
            message = f"{kind}_pattern of {name} must have regular expressions, got {shown(key)}"
            raise CheckpointError(message) from error
        if len(key) > _MAX_PATTERN or re.search(r"\)[*+?{]", key):  # such expressions can take forever
            raise CheckpointError(f"{kind}_pattern of {name} must not repeat groups, got {shown(key)}")
    return list(entries.items())


def _pattern_of(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the end of a module's name, from a dot on, as PEFT does it."""
    return next((key for key in patterns if re.match(rf"(?:.*\.)?(?:{key})$", module)), "")


def _rank(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_RANK:
        raise CheckpointError(f"{name} must be a whole number from 1 to {_MAX_RANK}, got {shown(value)}")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise CheckpointError(f"{name} must be a number of at most a million, got {shown(value)}")
    return value
