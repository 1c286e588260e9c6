"""Reads the config.json of Janus and Janus-Pro, in the original and the transformers layout. No torch.

A setting that would change the numbers and that the engine does not implement is refused before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.errors import CheckpointError, shown
from actors.families import Identity
from actors.llama.config import (
    MAX_SIZE,
    LlamaShape,
    check_image_fits,
    integer,
    integers,
    read_llama_shape,
    require,
    section,
)

NUM_RES_BLOCKS = 2  # per level of the VQ decoder, plus one; fixed in VQ-16
_GROUP_NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class VQShape:
    """The VQ decoder and its codebook; an image is `grid_size` x `grid_size` codes.

    `channel_multipliers` run from the full resolution down, as in the config; the decoder walks them backwards.
    """

    codebook_size: int
    code_dim: int
    channels: int
    channel_multipliers: tuple[int, ...]
    z_channels: int
    grid_size: int

    @property
    def num_codes(self) -> int:
        return self.grid_size**2

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.grid_size << (len(self.channel_multipliers) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusShape:
    """Janus and Janus-Pro. `head_size` is the width between the two layers of the generation head."""

    llama: LlamaShape
    vq: VQShape
    head_size: int

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.vq.image_size


def identify(config: Mapping[str, Any], hub_id: str | None) -> Identity | None:
    """The layout of a Janus or Janus-Pro config.json; None for any other model.

    The role tags of Janus-1.3B differ from those of Janus-Pro, and its config.json does not name them. It is
    recognized by its hub id, or by marks that no Janus-Pro config.json has: a text model with an
    `_attn_implementation`, or a `transformers_version` of 4.38.2 without `architectures` (Janus-Pro: 4.33.1). A
    fine-tuned Janus-1.3B that was saved again has lost these marks.
    """
    if config.get("model_type") == "janus":
        return Identity(layout="transformers")  # no Janus-1.3B is published in it
    if config.get("model_type") != "multi_modality" or "gen_vision_config" not in config:
        return None
    is_janus_1_3b = (
        (hub_id or "").endswith("/Janus-1.3B")
        or "_attn_implementation" in section(config, "language_config", default={})
        or (config.get("transformers_version") == "4.38.2" and "architectures" not in config)
    )
    return Identity(layout="original", prompt_format="janus" if is_janus_1_3b else None)


def read_shape(config: Mapping[str, Any]) -> JanusShape:
    """The shape of a config.json that `identify` recognizes. Raises CheckpointError."""
    return _read_transformers(config) if config["model_type"] == "janus" else _read_original(config)


def _read_original(config: Mapping[str, Any]) -> JanusShape:
    llama = read_llama_shape(config, "language_config")
    vision = section(config, "gen_vision_config")
    if vision.get("cls", "VQ-16") != "VQ-16":
        raise CheckpointError(f"gen_vision_config.cls must be VQ-16, got {shown(vision['cls'])}")
    params = section(vision, "params", "gen_vision_config")
    head = section(section(config, "gen_head_config"), "params", "gen_head_config")
    aligner = section(section(config, "gen_aligner_config"), "params", "gen_aligner_config")
    require(aligner, "projector_type", "mlp_gelu", "gen_aligner_config.params")
    require(aligner, "depth", 2, "gen_aligner_config.params", default=1)
    tower = section(section(config, "vision_config", default={}), "params", "vision_config", default={})
    return JanusShape(
        llama=llama,
        vq=_vq_shape(
            llama,
            codebook_size=integer(params, "image_token_size", 16384, "gen_vision_config.params"),
            code_dim=integer(params, "n_embed", 8, "gen_vision_config.params"),
            channels=integer(params, "ch", 128, "gen_vision_config.params"),
            channel_multipliers=integers(params, "decoder_ch_mult", (1, 1, 2, 2, 4), "gen_vision_config.params"),
            z_channels=integer(params, "z_channels", 256, "gen_vision_config.params"),
            image_size=integer(tower, "image_size", 384, "vision_config.params"),
        ),
        head_size=integer(head, "image_token_embed", llama.hidden_size, "gen_head_config.params"),
    )


def _read_transformers(config: Mapping[str, Any]) -> JanusShape:
    llama = read_llama_shape(config, "text_config")
    vq = section(config, "vq_config")
    require(vq, "double_latent", False, "vq_config", default=False)
    require(vq, "num_res_blocks", NUM_RES_BLOCKS, "vq_config", default=NUM_RES_BLOCKS)
    require(vq, "num_hidden_layers", 2, "vq_config", default=2)
    require(vq, "hidden_act", "gelu", "vq_config", default="gelu")
    for key in ("projection_dim", "image_token_embed_dim"):
        require(vq, key, llama.hidden_size, "vq_config", default=2048)
    return JanusShape(
        llama=llama,
        vq=_vq_shape(
            llama,
            codebook_size=integer(vq, "num_embeddings", 16384, "vq_config"),
            code_dim=integer(vq, "embed_dim", 8, "vq_config"),
            channels=integer(vq, "base_channels", 128, "vq_config"),
            channel_multipliers=integers(vq, "channel_multiplier", (1, 1, 2, 2, 4), "vq_config"),
            z_channels=integer(vq, "latent_channels", 256, "vq_config"),
            image_size=integer(section(config, "vision_config", default={}), "image_size", 384, "vision_config"),
        ),
        head_size=llama.hidden_size,
    )


def _vq_shape(llama: LlamaShape, *, image_size: int, **fields: Any) -> VQShape:
    """Models render at the size that their vision tower reads: 384 in every published checkpoint."""
    multipliers = fields["channel_multipliers"]
    downsampling = 2 ** (len(multipliers) - 1)
    channels = [fields["channels"] * multiplier for multiplier in multipliers]
    if max(channels) > MAX_SIZE:
        raise CheckpointError(f"the VQ decoder must have at most {MAX_SIZE} channels, got {channels}")
    if any(number % _GROUP_NORM_GROUPS for number in channels):
        raise CheckpointError(
            f"the VQ decoder's channels ({fields['channels']} x {list(multipliers)}) must be multiples of "
            f"{_GROUP_NORM_GROUPS}, the number of its normalization groups"
        )
    if image_size % downsampling:
        raise CheckpointError(
            f"an image size of {image_size} pixels is not a multiple of {downsampling} pixels per code"
        )
    vq = VQShape(grid_size=image_size // downsampling, **fields)
    check_image_fits(vq.num_codes, image_size, llama)
    return vq
