"""Which checkpoints can look at images, from their files and the names of their tensors alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from actors.checkpoint.open import open_checkpoint
from actors.errors import CheckpointError
from actors.understanding.ability import check_can_look
from tests.support.checkpoints import FLOW, TINY

TOWERS = ("vision_model.", "vision_und_enc_model.")


@pytest.mark.parametrize("name", [str(TINY), str(FLOW), "toy"])
def test_a_checkpoint_with_a_vision_tower_can_look(name: str) -> None:
    check_can_look(open_checkpoint(name))


@pytest.mark.parametrize("folder", [TINY, FLOW])
@pytest.mark.parametrize("has_index", [False, True])
def test_a_checkpoint_whose_weights_hold_no_tower_cannot(tmp_path: Path, folder: Path, has_index: bool) -> None:
    """What is left of Janus after the tower was cut away, with the config.json as it was."""
    blind = tmp_path / "blind"
    shutil.copytree(folder, blind)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(TOWERS)}
    assert 0 < len(kept) < len(weights)
    save_file(kept, blind / "model.safetensors")
    if has_index:
        (blind / "model.safetensors").rename(blind / "model-00001-of-00001.safetensors")
        index = {"weight_map": dict.fromkeys(kept, "model-00001-of-00001.safetensors")}
        (blind / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match="blind: its weight files hold no vision tower, so this"):
        check_can_look(open_checkpoint(str(blind)))


def test_a_config_without_a_tower_is_refused_with_its_reason(tmp_path: Path) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(TINY, blind)
    config = json.loads((TINY / "config.json").read_text())
    del config["vision_config"]
    (blind / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"blind: .*vision_config"):
        check_can_look(open_checkpoint(str(blind)))
