"""Models with random weights for the benchmarks: small ones for a CPU, and the published shapes for a GPU.

A folder holds the config and the tests' small tokenizer; the weights are created on the device and never written.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_checkpoint, open_vae
from actors.checkpoint.weights import Shapes
from actors.families import FAMILIES
from actors.recipe import Recipe

DATA = Path(__file__).parents[1] / "tests" / "data"
SDXL_WIDTHS = (128, 256, 512, 512)  # of the VAE, from the full resolution down
SMALL_WIDTHS = (32, 64, 128, 128)


def janus_config(*, num_layers: int, hidden_size: int, grid_size: int, vq_widths: list[int]) -> dict[str, Any]:
    """A Janus with the published codebook of 16,384 entries.

    The number of levels gives its image decoder the same share of the arithmetic as in Janus-Pro-1B, 0.2 of the text
    model's: one level less halves the image's sides.
    """
    return {
        "model_type": "multi_modality",
        "language_config": llama_config(num_layers, hidden_size),
        "gen_aligner_config": {"params": {"projector_type": "mlp_gelu", "depth": 2, "n_embed": hidden_size}},
        "gen_head_config": {"params": {"n_embed": hidden_size, "image_token_embed": hidden_size}},
        "gen_vision_config": {
            "cls": "VQ-16",
            "params": {"n_embed": 8, "ch": 32, "decoder_ch_mult": vq_widths, "z_channels": 64},
        },
        "vision_config": {"params": {"image_size": grid_size * 2 ** (len(vq_widths) - 1)}},
    }


def flow_config(*, num_layers: int, hidden_size: int, channels: int, latent_size: int) -> dict[str, Any]:
    params = {"hidden_size": hidden_size, "block_out_channels": [channels], "layers_in_middle": 2}
    return {
        "model_type": "multi_modality",
        "language_config": llama_config(num_layers, hidden_size),
        "vision_gen_enc_config": {
            "params": {**params, "input_channels": 4, "kernel_size": 2, "stride": 2, "padding": 0, "norm_eps": 1e-6}
        },
        "vision_gen_dec_config": {
            "params": {**params, "in_channels": channels, "out_channels": 4, "upsamples": 1, "norm_eps": 1e-6}
        },
        "vision_und_enc_config": {"params": {"image_size": latent_size * 8}},
    }


def llama_config(num_layers: int, hidden_size: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 448,
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 11 // 4,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "max_position_embeddings": 2048,
    }


SMALL_JANUS = {
    "A (8 x 512, 576 codes)": janus_config(num_layers=8, hidden_size=512, grid_size=24, vq_widths=[1, 1, 2, 4]),
    "B (4 x 256, 144 codes)": janus_config(num_layers=4, hidden_size=256, grid_size=12, vq_widths=[1, 1, 2]),
}
SMALL_FLOW = {
    "F (8 x 512, 576 tokens)": flow_config(num_layers=8, hidden_size=512, channels=192, latent_size=48),
    "G (4 x 256, 144 tokens)": flow_config(num_layers=4, hidden_size=256, channels=96, latent_size=24),
}


def real_config(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((DATA / "real_shapes" / f"{name}.json.gz").read_bytes()))["config"]


def write_checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """A checkpoint of this config.json whose weight file holds one number: a file of none is refused."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copyfile(DATA / "janus-tiny" / "tokenizer.json", folder / "tokenizer.json")
    save_file({"unused": torch.zeros(1)}, folder / "model.safetensors")
    return fetch_checkpoint(open_checkpoint(str(folder)))


def write_vae(checkpoint: Checkpoint, widths: tuple[int, ...]) -> Checkpoint:
    """A random AutoencoderKL of the SDXL VAE's architecture, in the checkpoint's folder."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=min(32, widths[0]),
        scaling_factor=0.13025,
    )
    model.save_pretrained(checkpoint.path / "vae")
    return fetch_checkpoint(open_vae(None, checkpoint))


def random_weights(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """Random tensors: normalizations around 1, matrices that keep the scale of their input.

    The matrix of the generation head is larger, so that codes are neither certain nor all alike.
    """
    chance = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, size in shapes.items():
        noise = torch.randn(size, generator=chance, device=device)
        scale = 1 / 8 if len(size) == 1 else torch.Size(size[1:]).numel() ** -0.5
        scale *= 4 if name == "gen_head.vision_head.weight" else 1
        is_norm = len(size) == 1 and name.endswith("weight")
        weights[name] = (noise * scale + (1 if is_norm else 0)).to(dtype)
    return weights


def recipe(checkpoint: Checkpoint, dtype: str) -> Recipe:
    """The family's default settings."""
    family = FAMILIES[checkpoint.family]
    return Recipe(
        family=checkpoint.family,
        checkpoint=checkpoint.name,
        revision=None,
        weights_sha256="",
        prompt_format=checkpoint.prompt_format,
        vae="random" if family.decodes_with_vae else None,
        vae_revision=None,
        vae_sha256=None,
        dtype=dtype,
        sampler="",
        cfg_weights=(family.default_cfg_weight,),
        images_per_prompt=1,
        seed=0,
        **family.settings,
    )
