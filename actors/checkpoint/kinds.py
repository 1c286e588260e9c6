"""What a folder is that is no checkpoint of a Janus model but is often taken for one, and what to use in its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from actors.checkpoint.files import SmallFiles, read_json
from actors.checkpoint.known import KNOWN_MODELS
from actors.errors import CheckpointError, one_line, shown

ADAPTER_CONFIG = "adapter_config.json"

_WEIGHTS = (".safetensors", ".bin")
# Endings of files that hold weights in a form of their own, and what reads them.
_OTHER_FORMATS = {
    ".gguf": "weights quantized for llama.cpp (GGUF)",
    ".ggml": "weights for llama.cpp (GGML)",
    ".onnx": "a model exported to ONNX",
    ".onnx_data": "a model exported to ONNX",
    ".mlpackage": "a model for Core ML",
    ".npz": "weights for MLX",
}
_TRAINING_STATE = re.compile(r"global_step\d+|zero_to_fp32\.py|.*\.distcp")
_SAVED_IN_TRAINING = re.compile(r"checkpoint-(\d+)")
# Endings of the names that bitsandbytes, GPTQ, AWQ, MLX and compressed-tensors give to the parts of a matrix.
_PARTS_OF_QUANTIZED = (
    *(".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB"),
    *(".qweight", ".qzeros", ".g_idx", ".scales", ".biases", ".weight_packed", ".weight_scale", ".weight_scale_inv"),
)
_LANGUAGE_MODEL = "language_model."
_PARTS_FOR_IMAGES = ("gen_", "vision_", "aligner.")


def refuse_other_kinds(folder: SmallFiles) -> None:
    """Raise CheckpointError for an adapter, or for weights in a form that the engines do not read, from the listing."""
    files = folder.files()
    if ADAPTER_CONFIG in files and not _weights_of_a_model(files):
        raise CheckpointError(_adapter_advice(folder))
    if _weights_of_a_model(files):
        return
    for name in sorted(files):
        ending = next((ending for ending in _OTHER_FORMATS if name.endswith(ending)), None)
        kind = _OTHER_FORMATS[ending] if ending else ("a model exported to ONNX" if name == "onnx" else None)
        if kind:
            raise CheckpointError(f"{folder.name} holds {kind}, such as {one_line(name)}; {_original(folder)}")
    if saved := [int(found[1]) for found in map(_SAVED_IN_TRAINING.fullmatch, files) if found]:
        raise CheckpointError(
            f"{folder.name} is the folder of a training run; name one of the checkpoints in it, such as "
            f"{folder.name.rstrip('/')}/checkpoint-{max(saved)}"
        )
    if any(map(_TRAINING_STATE.fullmatch, files)):
        raise CheckpointError(
            f"{folder.name} is the state of a training run, whose weights are in parts: gather them into a "
            "pytorch_model.bin first, with zero_to_fp32.py (DeepSpeed) or torch.distributed.checkpoint.format_utils "
            "(FSDP)"
        )


def refuse_quantized(folder: SmallFiles, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config.json of quantized weights, at its top or in the section of its text model."""
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        quantization = section.get("quantization_config")
        if isinstance(quantization, dict):
            method = shown(quantization.get("quant_method", "bitsandbytes"))
            raise CheckpointError(f"the weights of {folder.name} are quantized by {method}; {_original(folder)}")
        mlx = section.get("quantization")
        if isinstance(mlx, dict) and "group_size" in mlx:
            raise CheckpointError(
                f"the weights of {folder.name} are quantized to {shown(mlx.get('bits'))} bits for MLX; "
                f"{_original(folder)}"
            )


def refuse_language_model(folder: SmallFiles, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a language model without the parts that generate images."""
    if config.get("model_type") == "llama":
        raise CheckpointError(
            f"{folder.name} is a language model alone (model_type 'llama'), without the parts for images; "
            f"{_original(folder)}"
        )


def refuse_parts_of_tensors(folder: SmallFiles, names: Collection[str]) -> None:
    """Raise CheckpointError if a tensor has the name of a part of a quantized matrix, or of an adapter."""
    if factor := next((name for name in names if ".lora_A." in name), None):
        raise CheckpointError(
            f"{folder.name} holds an adapter that is not merged into it, such as {one_line(factor)}; merge it with "
            "PEFT's merge_and_unload, or save it alone and name it as model.adapter"
        )
    if part := next((name for name in names if name.endswith(_PARTS_OF_QUANTIZED)), None):
        raise CheckpointError(
            f"the weights of {folder.name} are quantized, as {one_line(part)} shows; {_original(folder)}"
        )


def refuse_a_language_model_alone(folder: SmallFiles, expected: Collection[str], found: Collection[str]) -> None:
    """Raise CheckpointError if there are tensors of the language model, and none of any part for images."""
    inside = {name for name in expected if name.startswith(_LANGUAGE_MODEL)}
    names = {name if name.startswith(_LANGUAGE_MODEL) else f"{_LANGUAGE_MODEL}{name}" for name in found}
    outside = set(expected) - inside
    is_alone = outside.isdisjoint(found) and not any(name.startswith(_PARTS_FOR_IMAGES) for name in found)
    if is_alone and inside & names:
        parts = sorted({name.partition(".")[0] for name in outside})
        is_flow = parts[0].startswith("vision_gen_")
        original = _original(folder, "deepseek-ai/JanusFlow-1.3B") if is_flow else _original(folder)
        raise CheckpointError(
            f"{folder.name} holds a language model alone, without its parts for images ({', '.join(parts)}); {original}"
        )


def _weights_of_a_model(files: Collection[str]) -> bool:
    stems = ("model", "pytorch_model")
    return any(name.startswith(stems) and name.endswith((*_WEIGHTS, ".index.json")) for name in files)


def _adapter_advice(folder: SmallFiles) -> str:
    """That a folder is an adapter, and the lines to write."""
    try:
        base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    use = f"`adapter: {folder.name}` in the section model"
    if not isinstance(base, str) or not base:
        return f"{folder.name} is an adapter (LoRA), not a model; give the model it was trained on, and {use}"
    base = one_line(base)
    return f"{folder.name} is an adapter (LoRA) for {base}, not a model; write `checkpoint: {base}` and {use}"


def _original(folder: SmallFiles, example: str = "deepseek-ai/Janus-Pro-7B") -> str:
    """Which checkpoint to use in place of a converted one, by the name that the folder and its files share with it."""
    text = _plain(" ".join([_last(folder.name), *folder.files()]))
    repositories = [repository for model in KNOWN_MODELS for repository in model.repositories]
    found = [repository for repository in repositories if _plain(_last(repository)) in text]
    longest = max(found, key=lambda repository: len(_last(repository)), default=None)
    return f"use the original, {longest or f'such as {example}'}"


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
