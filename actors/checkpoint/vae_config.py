"""Which autoencoder a JanusFlow checkpoint can be decoded with, judged from its diffusers config.json. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.checkpoint.shape import VAE_DOWNSAMPLING, FlowShape
from actors.errors import CheckpointError

# Every AutoencoderKL config has these, and older ones no _class_name.
_KEYS = {"block_out_channels", "down_block_types", "up_block_types", "latent_channels"}


def is_vae_config(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes a diffusers AutoencoderKL."""
    return config.get("_class_name", "AutoencoderKL") == "AutoencoderKL" and config.keys() >= _KEYS


def check_vae_config(config: Mapping[str, Any], name: str, flow: FlowShape) -> None:
    """Raise CheckpointError unless this autoencoder decodes the latents that the checkpoint makes."""
    if not is_vae_config(config):
        found = config.get("_class_name") or config.get("model_type")
        raise CheckpointError(f"model.vae must be a diffusers AutoencoderKL folder; {name} is of kind {found!r}")
    scaling_factor = config.get("scaling_factor")
    if isinstance(scaling_factor, bool) or not isinstance(scaling_factor, int | float) or not scaling_factor > 0:
        raise CheckpointError(
            f"the config.json of {name} must hold a scaling_factor (0.13025 for stabilityai/sdxl-vae), "
            f"got {scaling_factor!r}"
        )
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if config.get(key) is not None:
            raise CheckpointError(
                f"{key} of {name} must be null: JanusFlow's latents are only scaled; got {config[key]}"
            )
    if config["latent_channels"] != flow.latent_channels:
        raise CheckpointError(
            f"{name} decodes latents of {config['latent_channels']} channels, the checkpoint makes "
            f"{flow.latent_channels}"
        )
    downsampling = 2 ** (len(config["block_out_channels"]) - 1)
    if downsampling != VAE_DOWNSAMPLING:
        raise CheckpointError(f"{name} makes {downsampling} pixels of a latent, JanusFlow needs {VAE_DOWNSAMPLING}")
