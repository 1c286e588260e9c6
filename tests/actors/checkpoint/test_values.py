"""NaN, infinity and constants in any part of a checkpoint are named, and refused before an engine is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.checkpoint.doctor import Use
from actors.checkpoint.models import open_models
from actors.checkpoint.open import fetch_checkpoint
from actors.checkpoint.values import check_values
from tests.support.checkpoints import DATA

MODEL, VAE = "model.safetensors", "vae/diffusion_pytorch_model.safetensors"


def changed(tmp_path: Path, name: str, file: str, tensor: str, change: Callable[[torch.Tensor], object]) -> Path:
    folder = Path(shutil.copytree(DATA / name, tmp_path / "changed"))
    tensors = load_file(folder / file)
    change(tensors[tensor])
    save_file(tensors, folder / file)
    return folder


def faults_of(folder: Path) -> dict[str, str]:
    models = [fetch_checkpoint(model) for model in open_models(str(folder)) if model is not None]
    return {one.check: one.detail for model in models for one in check_values(model) if not one.is_ok}


def last(value: float) -> Callable[[torch.Tensor], object]:
    return lambda tensor: tensor.view(-1)[-1:].fill_(value)


def all_(value: float) -> Callable[[torch.Tensor], object]:
    return lambda tensor: tensor.fill_(value)


@pytest.mark.parametrize(
    ("name", "file", "tensor", "change", "use"),
    [
        ("janus-tiny", MODEL, "gen_head.vision_head.bias", last(torch.nan), "rendering"),
        ("janus-tiny", MODEL, "gen_vision_model.decoder.norm_out.weight", all_(torch.inf), "rendering"),
        ("janus-tiny", MODEL, "gen_vision_model.quantize.embedding.weight", all_(0), "rendering"),
        ("janus-tiny", MODEL, "gen_aligner.layers.0.weight", all_(1), "rendering"),
        ("janus-tiny", MODEL, "language_model.model.layers.0.input_layernorm.weight", all_(0), "rendering"),
        ("janus-tiny", MODEL, "aligner.layers.0.bias", last(-torch.inf), "looking"),
        ("janus-tiny", MODEL, "vision_model.vision_tower.pos_embed", all_(0.5), "looking"),
        ("janus-tiny", MODEL, "language_model.lm_head.weight", last(torch.nan), "looking"),
        ("janusflow-tiny", MODEL, "vision_gen_dec_aligner.weight", all_(0), "rendering"),
        ("janusflow-tiny", VAE, "decoder.conv_in.weight", all_(0), "rendering"),
        ("janusflow-tiny", VAE, "post_quant_conv.bias", last(torch.nan), "rendering"),
    ],
)
def test_what_no_training_leaves_is_named(
    tmp_path: Path, name: str, file: str, tensor: str, change: Callable[[torch.Tensor], object], use: Use
) -> None:
    faults = faults_of(changed(tmp_path, name, file, tensor, change))
    assert list(faults) == [f"numbers for {use}"]
    assert faults[f"numbers for {use}"].startswith(tensor)


@pytest.mark.parametrize(
    ("name", "file", "tensor", "change"),
    [
        ("janus-tiny", MODEL, "gen_vision_model.decoder.norm_out.weight", all_(1)),
        ("janus-tiny", MODEL, "gen_vision_model.decoder.conv_out.bias", all_(0)),
        ("janus-tiny", MODEL, "gen_vision_model.decoder.mid.0.conv2.weight", all_(0)),
        ("janusflow-tiny", VAE, "encoder.conv_in.weight", all_(torch.nan)),
    ],
    ids=["a norm of ones", "a bias of zeros", "a residual branch of zeros", "an encoder that nothing runs"],
)
def test_what_training_may_leave_is_no_fault(
    tmp_path: Path, name: str, file: str, tensor: str, change: Callable[[torch.Tensor], object]
) -> None:
    assert faults_of(changed(tmp_path, name, file, tensor, change)) == {}


def test_the_numbers_of_a_table_that_is_no_weight_do_not_count(tmp_path: Path) -> None:
    folder = changed(tmp_path, "janus-tiny", MODEL, "gen_embed.weight", lambda tensor: None)
    tensors = load_file(folder / MODEL)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.cos_cached"] = torch.full((4, 4), torch.nan)
    save_file(tensors, folder / MODEL)
    assert faults_of(folder) == {}
