"""Reads how a model looks at images: the vision tower and aligner in config.json, in every layout. No torch.

A setting that would change the numbers and that the tower does not implement is refused before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actors.errors import CheckpointError, shown
from actors.llama.config import MAX_LAYERS, check_image_fits, integer, number, read_llama_shape, require, section

MIN_SIDE = 14  # pixels: a shorter side is stretched to this, see `actors.understanding.pixels`

# The sizes of the towers that a config.json knows by name only.
_TOWERS = {
    "siglip_large_patch16_384": {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_ratio": 4.0,
    },
}
_MAX_ALIGNER_LAYERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """The vision tower, and the aligner that leads its output to the `hidden_size` of the text model.

    `layout` is that of the tensors' names. `num_layers` are the blocks that are built: a config may leave out the last
    ones. The aligner has `num_aligner_layers` linear layers with a GELU between them.
    """

    layout: Literal["original", "flow", "transformers"]
    image_size: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    num_aligner_layers: int
    hidden_size: int

    @property
    def num_tokens(self) -> int:
        """Patches of an image, each of them one token of the text model."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def embeds_begin_of_image(self) -> bool:
        """Whether an embedding of its own takes the place of the token `<begin_of_image>`."""
        return self.layout == "flow"


def read_vision_shape(config: Mapping[str, Any]) -> VisionShape:
    """The vision tower and aligner of any Janus or JanusFlow config.json. Raises CheckpointError."""
    if "text_config" in config:  # the transformers layout
        shape = _read_transformers(config)
        llama = read_llama_shape(config, "text_config")
    else:
        shape = _read_original(config)
        llama = read_llama_shape(config, "language_config")
    if shape.width % shape.num_heads:
        raise CheckpointError(
            f"the vision tower's {shape.width} channels must be a multiple of its {shape.num_heads} attention heads"
        )
    if shape.image_size < max(shape.patch_size, MIN_SIDE):
        raise CheckpointError(
            f"the vision tower's image size must be at least {max(shape.patch_size, MIN_SIDE)} pixels, "
            f"got {shape.image_size}"
        )
    check_image_fits(shape.num_tokens + 2, shape.image_size, llama)
    return shape


def _read_original(config: Mapping[str, Any]) -> VisionShape:
    is_flow = "vision_und_enc_config" in config
    name = "vision_und_enc_config" if is_flow else "vision_config"
    tower = section(config, name)
    require(tower, "cls", "CLIPVisionTower", name, default="CLIPVisionTower")
    params, name = section(tower, "params", name), f"{name}.params"
    require(params, "select_feature", "same", name, default="same")
    for key in ("pixel_mean", "pixel_std"):  # a second normalization inside the tower; no published config has one
        require(params, key, None, name, default=None)
    sizes = _TOWERS.get(str(params.get("model_name")), {}) | {k: v for k, v in params.items() if v is not None}
    if missing := [key for key in next(iter(_TOWERS.values())) if key not in sizes]:
        raise CheckpointError(
            f"{name} must give {', '.join(missing)}, or a model_name of {', '.join(_TOWERS)}; "
            f"got {shown(params.get('model_name'))}, so this model cannot look at images"
        )
    width = integer(sizes, "width", 0, name)
    hidden_size = read_llama_shape(config, "language_config").hidden_size
    return VisionShape(
        layout="flow" if is_flow else "original",
        image_size=integer(sizes, "image_size", 0, name),
        patch_size=integer(sizes, "patch_size", 0, name),
        width=width,
        num_layers=_num_built(sizes, name),
        num_heads=integer(sizes, "heads", 0, name),
        mlp_width=int(width * number(sizes, "mlp_ratio", 0, name)),
        num_aligner_layers=1 if is_flow else _num_aligner_layers(config),
        hidden_size=hidden_size,
    )


def _num_built(sizes: Mapping[str, Any], name: str) -> int:
    """The blocks that `select_layer` leaves: n > 0 the first n, 0 and -1 all, -2 all but the last, and so on."""
    num_layers = integer(sizes, "layers", 0, name, largest=MAX_LAYERS)
    chosen = sizes.get("select_layer", -1)
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not -num_layers <= chosen <= MAX_LAYERS:
        raise CheckpointError(
            f"{name}.select_layer must be a whole number from {-num_layers} to {MAX_LAYERS}, got {shown(chosen)}"
        )
    return min(num_layers, chosen if chosen > 0 else num_layers + chosen + 1)


def _num_aligner_layers(config: Mapping[str, Any]) -> int:
    name = "aligner_config.params"
    params = section(section(config, "aligner_config"), "params", "aligner_config")
    require(params, "projector_type", "mlp_gelu", name)
    return integer(params, "depth", 1, name, largest=_MAX_ALIGNER_LAYERS)


def _read_transformers(config: Mapping[str, Any]) -> VisionShape:
    name = "vision_config"
    vision = section(config, name)
    hidden_size = read_llama_shape(config, "text_config").hidden_size
    fixed = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "attention_bias": True, "use_qk_norm": False}
    for key, value in (fixed | {"num_channels": 3}).items():
        require(vision, key, value, name, default=value)
    require(vision, "projection_dim", hidden_size, name, default=2048)
    width = integer(vision, "hidden_size", 1024, name)
    return VisionShape(
        layout="transformers",
        image_size=integer(vision, "image_size", 384, name),
        patch_size=integer(vision, "patch_size", 16, name),
        width=width,
        num_layers=integer(vision, "num_hidden_layers", 24, name, largest=MAX_LAYERS),
        num_heads=integer(vision, "num_attention_heads", 16, name),
        mlp_width=int(width * number(vision, "mlp_ratio", 4.0, name)),
        num_aligner_layers=integer(vision, "depth", 2, name, largest=_MAX_ALIGNER_LAYERS),
        hidden_size=hidden_size,
    )
