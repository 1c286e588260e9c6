"""The shape of JanusFlow's config, the settings that are refused, and which autoencoders fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actors.checkpoint.open import open_checkpoint, open_vae
from actors.errors import CheckpointError
from actors.janus.config import read_shape as read_janus_shape
from actors.janusflow.config import identify, read_shape
from tests.support.checkpoints import FLOW, TINY, changed, fetched, published


@pytest.fixture
def config() -> dict:
    """Of the published checkpoint."""
    return published("JanusFlow-1.3B")[0]


def test_the_published_model_renders_384_pixels_from_576_tokens(config: dict) -> None:
    flow = read_shape(config)
    assert (flow.image_size, flow.latent_size, flow.num_image_tokens) == (384, 48, 576)
    assert flow.llama == read_janus_shape(published("Janus-1.3B")[0]).llama


def test_a_small_checkpoint_says_its_own_sizes() -> None:
    flow = fetched(FLOW).shape
    assert (flow.latent_channels, flow.latent_size, flow.num_image_tokens, flow.image_size) == (4, 12, 36, 96)
    assert (flow.encoder_channels, flow.decoder_channels, flow.norm_eps) == (32, 32, 1e-6)


def test_a_config_of_another_family_is_not_identified() -> None:
    assert identify(published("Janus-Pro-1B")[0], None) is None
    assert identify({"model_type": "llama"}, None) is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_gen_enc_config.params.kernel_size", 7, "kernel_size must be 2, .* got 7"),
        ("vision_gen_enc_config.params.hidden_size", 1024, "params.hidden_size must be 2048, .* got 1024"),
        ("vision_gen_enc_config.params.block_out_channels", [768, 768], r"must hold one number, got \[768, 768\]"),
        ("vision_gen_dec_config.params.upsamples", 2, "vision_gen_dec_config.params.upsamples must be 1, .* got 2"),
        ("vision_gen_dec_config.params.use_bias", False, "use_bias must be True, .* got False"),
        ("vision_gen_dec_config.params.out_channels", 16, "out_channels must be 4, .* got 16"),
        ("vision_gen_dec_config.params.norm_eps", 1e-5, "norm_eps must be 1e-06, .* got 1e-05"),
    ],
)
def test_a_janusflow_setting_that_the_engine_does_not_implement_is_refused(
    path: str, value: object, message: str, config: dict
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_shape(changed(config, path, value))


@pytest.mark.parametrize(("image_size", "message"), [(392, "not a multiple of 16"), (65536, "needs 16777216 tokens")])
def test_an_image_size_that_cannot_be_rendered_is_refused(image_size: int, message: str) -> None:
    config = json.loads((FLOW / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        read_shape(changed(config, "vision_und_enc_config.params.image_size", image_size))


@pytest.mark.parametrize("section", ["vision_gen_enc_config", "vision_gen_dec_config.params", "vision_und_enc_config"])
def test_a_section_that_is_no_object_is_refused_by_name(section: str) -> None:
    config = json.loads((FLOW / "config.json").read_text())
    with pytest.raises(CheckpointError, match=rf"config.json must hold an object {section}, got \[\]"):
        read_shape(changed(config, section, []))


# ---- the autoencoder -------------------------------------------------------------------------------------------------


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FLOW, tmp_path / "flow"))


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; a value of None removes the key."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_janusflow_without_an_autoencoder_asks_for_one(flow: Path) -> None:
    shutil.rmtree(flow / "vae")
    with pytest.raises(CheckpointError, match=r"so model.vae must name an autoencoder, such as stabilityai/sdxl-vae"):
        open_vae(None, open_checkpoint(str(flow)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling_factor": None}, r"must hold a scaling_factor \(0.13025 for stabilityai/sdxl-vae\), got None"),
        ({"scaling_factor": -1}, "scaling_factor must be a positive number of at most .*, got -1"),
        ({"shift_factor": 0.1159}, "shift_factor of .* must be null: JanusFlow's latents are only scaled; got 0.1159"),
        ({"latent_channels": 16}, "decodes latents of 16 channels, the checkpoint makes 4"),
        ({"scaling_factor": "x"}, "scaling_factor must be a positive number of at most .*, got 'x'"),
        ({"latents_mean": [0.0] * 1000}, r"latents_mean of .* must be null: .* got \[0.0, 0.0, .*\]$"),
        ({"block_out_channels": 8}, "block_out_channels must be a list of 1 to 16 positive whole numbers .*, got 8"),
        ({"block_out_channels": [8, 8, 16, 10**12]}, "block_out_channels must be a list of 1 to 16 positive whole"),
        ({"layers_per_block": 10**9}, "layers_per_block must be a positive whole number of at most 32, got 1000000000"),
        ({"out_channels": 4}, "out_channels must be 3, the only one these engines implement; got 4"),
        ({"block_out_channels": [8, 16, 16]}, "decodes a latent to 4 pixels per side, JanusFlow needs 8"),
        (
            {"_class_name": "AutoencoderKLWan"},
            "must be a diffusers AutoencoderKL folder; .* is of kind 'AutoencoderKLWan'",
        ),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(changes: dict, message: str, flow: Path) -> None:
    edit(flow / "vae" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        open_vae(None, open_checkpoint(str(flow)))


def test_an_autoencoder_config_without_a_class_name_is_recognized_by_its_keys(flow: Path) -> None:
    edit(flow / "vae" / "config.json", _class_name=None)
    assert open_vae(None, open_checkpoint(str(flow))).weight_files == ("diffusion_pytorch_model.safetensors",)


def test_a_text_model_is_not_an_autoencoder_and_janus_takes_none() -> None:
    with pytest.raises(CheckpointError, match=r"janus-tiny is of kind 'multi_modality'"):
        open_vae(str(TINY), open_checkpoint(str(FLOW)))
    with pytest.raises(CheckpointError, match=r"janus-tiny \(janus\) decodes without a VAE; got model.vae '.*/vae'"):
        open_vae(f"{FLOW}/vae", open_checkpoint(str(TINY)))
