"""The shapes of a linear head in a safetensors file, checked without torch before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from safetensors import SafetensorError, deserialize

from actors.errors import one_line
from actors.understanding.scorers.source import ScorerError

# What a configuration leaves out if it is the default of transformers.
_CLIP_DIMENSIONS, _SIGLIP_DIMENSIONS = 512, 768


def check_head(data: bytes, num_dimensions: object) -> None:
    """Raise ScorerError unless the file holds `weight` [1, D] and `bias` [1], whatever prefix their names have, and D
    is the number of dimensions of the model's embeddings."""
    parsed = cast("Any", deserialize)  # it has no types
    try:
        shapes = {name.rpartition(".")[2]: tensor["shape"] for name, tensor in parsed(data)}
    except (SafetensorError, ValueError) as error:
        raise ScorerError(f"the head is no safetensors file: {one_line(str(error))}") from error
    weight, bias = shapes.get("weight", []), shapes.get("bias")
    if len(shapes) != 2 or len(weight) != 2 or weight[0] != 1 or bias not in ([1], []):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensors"
        raise ScorerError(f"the head must hold a weight [1, D] and a bias [1], got {one_line(found)}")
    if weight[1] != num_dimensions:
        raise ScorerError(f"the head takes embeddings of {weight[1]} dimensions, the model's have {num_dimensions}")


def embedding_dimensions(config: Mapping[str, Any]) -> object:
    """The number of dimensions of the image embeddings of CLIP or SigLIP, from its config.json."""
    if config["model_type"] == "clip":
        return config.get("projection_dim", _CLIP_DIMENSIONS)
    vision = config.get("vision_config")
    return vision.get("hidden_size", _SIGLIP_DIMENSIONS) if isinstance(vision, dict) else _SIGLIP_DIMENSIONS
