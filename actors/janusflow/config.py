"""Reads the config.json of JanusFlow, and that of the autoencoder that decodes its latents. No torch.

A setting that would change the numbers and that the engine does not implement is refused before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.errors import CheckpointError, shown
from actors.families import Identity
from actors.llama.config import (
    MAX_LAYERS,
    LlamaShape,
    check_image_fits,
    integer,
    integers,
    number,
    read_llama_shape,
    require,
    section,
)

TIME_SCALE = 1000.0  # the network counts the time from 0 to this
VAE_DOWNSAMPLING = 8  # pixels per latent position, per side
_MAX_VAE_LAYERS = 2**5  # per level; published autoencoders have 2

# Every AutoencoderKL config has these; older ones have no _class_name.
_VAE_KEYS = {"block_out_channels", "down_block_types", "up_block_types", "latent_channels"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowShape:
    """JanusFlow: latents of `latent_channels` x `latent_size` x `latent_size`, a quarter as many image tokens.

    `encoder_channels` is the width of the shallow U-ViT encoder and of its skip; the decoder works on
    `decoder_channels + encoder_channels`. The time embedding is as wide as the text model.
    """

    llama: LlamaShape
    latent_channels: int
    latent_size: int
    encoder_channels: int
    decoder_channels: int
    num_encoder_blocks: int
    num_decoder_blocks: int
    norm_eps: float

    @property
    def num_image_tokens(self) -> int:
        return (self.latent_size // 2) ** 2

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.latent_size * VAE_DOWNSAMPLING


def identify(config: Mapping[str, Any], hub_id: str | None) -> Identity | None:
    """The layout of a JanusFlow config.json; None for any other model."""
    is_flow = config.get("model_type") == "multi_modality" and "vision_gen_enc_config" in config
    return Identity(layout="original") if is_flow and "gen_vision_config" not in config else None


def read_shape(config: Mapping[str, Any]) -> FlowShape:
    """The shape of a config.json that `identify` recognizes. Raises CheckpointError."""
    llama = read_llama_shape(config, "language_config")
    enc_name, dec_name = "vision_gen_enc_config.params", "vision_gen_dec_config.params"
    enc = section(section(config, "vision_gen_enc_config"), "params", "vision_gen_enc_config")
    dec = section(section(config, "vision_gen_dec_config"), "params", "vision_gen_dec_config")
    channels = integers(enc, "block_out_channels", (768,), enc_name)
    if len(channels) != 1:
        raise CheckpointError(f"{enc_name}.block_out_channels must hold one number, got {list(channels)}")
    for key, value in {"kernel_size": 2, "stride": 2, "padding": 0}.items():
        require(enc, key, value, enc_name)
    for part, name in ((enc, enc_name), (dec, dec_name)):
        require(part, "hidden_size", llama.hidden_size, name, default=2048)
        require(part, "use_bias", True, name, default=True)
        require(part, "use_mid_block", True, name, default=True)
    require(dec, "upsamples", 1, dec_name, default=2)
    require(dec, "block_out_channels", list(channels), dec_name, default=[768])
    require(dec, "out_channels", enc.get("input_channels", 3), dec_name, default=3)
    require(dec, "norm_eps", enc.get("norm_eps", 1e-6), dec_name, default=1e-6)
    tower_name = "vision_und_enc_config"
    tower = section(section(config, tower_name, default={}), "params", tower_name, default={})
    image_size = integer(tower, "image_size", 384, f"{tower_name}.params")
    if image_size % (2 * VAE_DOWNSAMPLING):
        raise CheckpointError(
            f"an image size of {image_size} pixels is not a multiple of {2 * VAE_DOWNSAMPLING} pixels per token"
        )
    check_image_fits((image_size // (2 * VAE_DOWNSAMPLING)) ** 2, image_size, llama)
    return FlowShape(
        llama=llama,
        latent_channels=integer(enc, "input_channels", 3, enc_name),
        latent_size=image_size // VAE_DOWNSAMPLING,
        encoder_channels=channels[0],
        decoder_channels=integer(dec, "in_channels", 768, dec_name),
        num_encoder_blocks=integer(enc, "layers_in_middle", 2, enc_name, largest=MAX_LAYERS),
        num_decoder_blocks=integer(dec, "layers_in_middle", 2, dec_name, largest=MAX_LAYERS),
        norm_eps=number(enc, "norm_eps", 1e-6, enc_name),
    )


def check_vae(config: Mapping[str, Any], name: str, shape: FlowShape) -> None:
    """Raise CheckpointError unless the autoencoder of this config.json decodes the latents that the checkpoint makes.

    It must be a diffusers AutoencoderKL. `name` is what messages call it.
    """
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL" or not config.keys() >= _VAE_KEYS:
        found = config.get("_class_name") or config.get("model_type")
        raise CheckpointError(f"model.vae must be a diffusers AutoencoderKL folder; {name} is of kind {shown(found)}")
    if config.get("scaling_factor") is None:
        raise CheckpointError(
            f"the config.json of {name} must hold a scaling_factor (0.13025 for stabilityai/sdxl-vae), got None"
        )
    number(config, "scaling_factor", 1.0, name)
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if config.get(key) is not None:
            raise CheckpointError(
                f"{key} of {name} must be null: JanusFlow's latents are only scaled; got {shown(config[key])}"
            )
    if config["latent_channels"] != shape.latent_channels:
        raise CheckpointError(
            f"{name} decodes latents of {shown(config['latent_channels'])} channels, the checkpoint makes "
            f"{shape.latent_channels}"
        )
    downsampling = 2 ** (len(integers(config, "block_out_channels", (), name)) - 1)
    if downsampling != VAE_DOWNSAMPLING:
        raise CheckpointError(
            f"{name} decodes a latent to {downsampling} pixels per side, JanusFlow needs {VAE_DOWNSAMPLING}"
        )
    require(config, "out_channels", 3, name, default=3)
    integer(config, "in_channels", 3, name)
    integer(config, "layers_per_block", 1, name, largest=_MAX_VAE_LAYERS)
