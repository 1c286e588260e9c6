"""Which autoencoders a JanusFlow checkpoint is decoded with, and which would garble its pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actors.checkpoint.open import open_checkpoint, open_vae
from actors.errors import CheckpointError

DATA = Path(__file__).parents[2] / "data"
TINY, FLOW = DATA / "janus-tiny", DATA / "janusflow-tiny"


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
        ({"scaling_factor": -1}, "must hold a scaling_factor .*, got -1"),
        ({"shift_factor": 0.1159}, "shift_factor of .* must be null: JanusFlow's latents are only scaled; got 0.1159"),
        ({"latent_channels": 16}, "decodes latents of 16 channels, the checkpoint makes 4"),
        ({"block_out_channels": [8, 16, 16]}, "makes 4 pixels of a latent, JanusFlow needs 8"),
        (
            {"_class_name": "AutoencoderKLWan"},
            "must be a diffusers AutoencoderKL folder; .* is of kind 'AutoencoderKLWan'",
        ),
    ],
)
def test_an_autoencoder_that_would_garble_is_refused(changes: dict, message: str, flow: Path) -> None:
    edit(flow / "vae" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        open_vae(None, open_checkpoint(str(flow)))


def test_an_autoencoder_config_without_a_class_name_is_known_by_its_keys(flow: Path) -> None:
    edit(flow / "vae" / "config.json", _class_name=None)
    assert open_vae(None, open_checkpoint(str(flow))).weight_files == ("diffusion_pytorch_model.safetensors",)


def test_a_text_model_is_no_autoencoder_and_janus_takes_none() -> None:
    with pytest.raises(CheckpointError, match=r"janus-tiny is of kind 'multi_modality'"):
        open_vae(str(TINY), open_checkpoint(str(FLOW)))
    with pytest.raises(CheckpointError, match=r"model.vae belongs to JanusFlow; .*janus-tiny \(janus\) has its own"):
        open_vae(f"{FLOW}/vae", open_checkpoint(str(TINY)))
