"""Adapters merged while weights are read: against PEFT's own merge, against one merged by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from actors.checkpoint.adapter import open_adapter
from actors.checkpoint.models import open_models
from actors.checkpoint.open import fetch_checkpoint, weights_digest
from actors.errors import CheckpointError
from actors.janus.network import _Tensors, read_weights
from actors.janusflow.network import read_weights as read_flow_weights
from actors.recipe import Adapter
from tests.support.adapters import MLP1, PEFT, Q0, factors, write_adapter
from tests.support.checkpoints import FLOW, TINY, fetched


def merged(*adapters: Adapter, base: Path = TINY, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    checkpoint, _ = open_models(str(base), adapters=adapters)
    return read_weights(fetch_checkpoint(checkpoint), dtype=dtype, device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["q_proj", "down_proj", "vision_head"],
            "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
            "alpha_pattern": {"q_proj": 32},
        },
        {"target_modules": ["k_proj"], "modules_to_save": ["output_mlp_projector"], "fan_in_fan_out": True},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj", "vision_head"], "bias": "all"},
    ],
)
def test_the_weights_are_those_that_peft_merges(settings: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = read_weights(fetched(TINY), dtype=torch.float32, device="cpu")
    module = _Tensors(fetched(TINY).shape)
    module.load_state_dict(base)
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **settings)
    tuned = peft.get_peft_model(module, config)
    for name, tensor in tuned.named_parameters():
        if tensor.requires_grad and "lora_A" not in name and "lora_B" not in name:  # saved whole, biases, magnitudes
            tensor.data.add_(1.0)
    tuned.save_pretrained(tmp_path / "lora")

    ours = merged(Adapter(name=str(tmp_path / "lora")))
    theirs = tuned.merge_and_unload().state_dict()
    theirs = {name.replace(".base_layer.", "."): tensor for name, tensor in theirs.items()}

    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], base[name])}
    assert changed
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_the_weights_are_those_merged_by_hand(tmp_path: Path) -> None:
    plain = merged()
    tensors = factors(Q0, plain[f"{Q0}.weight"].shape) | factors(MLP1, plain[f"{MLP1}.weight"].shape, seed=1)
    folder = write_adapter(tmp_path / "lora", tensors, use_rslora=True)
    found = merged(Adapter(name=str(folder), weight=0.5))
    for module in (Q0, MLP1):
        a, b = (tensors[f"{PEFT}{module}.lora_{factor}.weight"] for factor in "AB")
        expected = plain[f"{module}.weight"] + 0.5 * 6 / math.sqrt(2) * (b @ a)
        torch.testing.assert_close(found[f"{module}.weight"], expected, rtol=0, atol=1e-5)
    assert {name for name in plain if not torch.equal(plain[name], found[name])} == {f"{Q0}.weight", f"{MLP1}.weight"}


def test_adapters_add_up_and_are_rounded_once(tmp_path: Path) -> None:
    size = merged()[f"{Q0}.weight"].shape
    one = write_adapter(tmp_path / "one", factors(Q0, size))
    other = write_adapter(tmp_path / "other", factors(Q0, size, seed=1))
    both = (Adapter(name=str(one), weight=0.25), Adapter(name=str(other), weight=-1.0))
    exact = merged(*both)[f"{Q0}.weight"]
    assert torch.equal(merged(*both, dtype=torch.bfloat16)[f"{Q0}.weight"], exact.bfloat16())
    assert not torch.equal(exact, merged(both[0])[f"{Q0}.weight"])
    assert torch.equal(merged(dataclasses.replace(both[0], weight=0.0))[f"{Q0}.weight"], merged()[f"{Q0}.weight"])


@pytest.mark.parametrize(
    ("module", "ending"),
    [
        ("model.layers.0.self_attn.q_proj", ".weight"),  # trained on the language model alone
        ("model.language_model.layers.0.self_attn.q_proj", ".weight"),  # trained on the transformers layout
        (f"_orig_mod.module.{Q0}", ".weight"),  # trained with wrappers
        (Q0, ".default.weight"),  # a state dict that PEFT did not save
    ],
)
def test_adapters_of_other_layouts_fit(module: str, ending: str, tmp_path: Path) -> None:
    size = merged()[f"{Q0}.weight"].shape
    plain = merged(Adapter(name=str(write_adapter(tmp_path / "plain", factors(Q0, size)))))
    tensors = {name.removesuffix(".weight") + ending: tensor for name, tensor in factors(module, size).items()}
    other = merged(Adapter(name=str(write_adapter(tmp_path / "other", tensors))))
    assert torch.equal(plain[f"{Q0}.weight"], other[f"{Q0}.weight"])


def test_what_generation_does_not_use_may_be_adapted(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors("vision_model.blocks.0.attn.qkv", (96, 32)))
    plain, adapted = merged(), merged(Adapter(name=str(folder)))
    assert all(torch.equal(plain[name], adapted[name]) for name in plain)


def test_an_embedding_saved_next_to_its_factors_is_its_base(tmp_path: Path) -> None:
    name, plain = "language_model.model.embed_tokens", merged()
    size = plain[f"{name}.weight"].shape
    chance = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, size[0], generator=chance), torch.randn(size[1], 2, generator=chance)
    tensors = {f"{PEFT}{name}.lora_embedding_A": a, f"{PEFT}{name}.lora_embedding_B": b}
    tensors[f"{PEFT}{name}.base_layer.weight"] = torch.ones(size)
    found = merged(Adapter(name=str(write_adapter(tmp_path / "lora", tensors))))
    torch.testing.assert_close(found[f"{name}.weight"], 1 + 3 * (b @ a).T)


def test_janusflow_takes_adapters_too(tmp_path: Path) -> None:
    plain = read_flow_weights(fetched(FLOW), dtype=torch.float32, device="cpu")
    folder = write_adapter(tmp_path / "lora", factors(Q0, tuple(plain[f"{Q0}.weight"].shape)))
    checkpoint, _ = open_models(str(FLOW), adapters=[Adapter(name=str(folder))])
    adapted = read_flow_weights(fetch_checkpoint(checkpoint), dtype=torch.float32, device="cpu")
    assert [name for name in plain if not torch.equal(plain[name], adapted[name])] == [f"{Q0}.weight"]


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "is an adapter of type 'LOHA'; only those of type LORA can be merged"),
        ({"use_qalora": True}, "sets use_qalora to True, which merging does not implement"),
        ({"lora_bias": True}, "sets lora_bias to True"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: 'pissa_niter_4', which changes the base weights"),
        ({"layer_replication": [[0, 4]]}, "sets layer_replication"),
        ({"something_new": {"x": 1}}, "sets something_new to {'x': 1}"),
        ({"r": 0}, "r of .* must be a whole number from 1 to 16384, got 0"),
        ({"lora_alpha": "x"}, "lora_alpha of .* must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha of .* must be a number"),
        ({"rank_pattern": [1]}, "rank_pattern of .* must be an object"),
        ({"rank_pattern": {"(a+)+": 1}}, "rank_pattern of .* must not repeat groups"),
        ({"alpha_pattern": {"[": 1}}, "alpha_pattern of .* must have regular expressions"),
    ],
)
def test_settings_that_would_be_ignored_are_refused_by_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q0, (64, 64)), **config)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(str(folder))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            factors("language_model.model.layers.9.self_attn.q_proj", (64, 64)),
            "which .* does not have; it was",
        ),
        (factors(Q0, (64, 65)), r"has shape \[64, 65\], the checkpoint's has \[64, 64\]"),
        (factors(Q0, (64, 64), rank=3), r"must have factors of rank 2, as adapter_config.json says; got \[3, 64\]"),
        ({f"{PEFT}{Q0}.lora_A.weight": torch.zeros(2, 64)}, "must have both factors, lora_A and lora_B"),
        (factors(Q0, (64, 64)) | {f"{PEFT}{Q0}.lora_magnitude_vector": torch.zeros(9)}, "must be 64 numbers"),
        (factors(Q0, (64, 64)) | {f"{PEFT}{Q0}.lora_ga": torch.zeros(9)}, "changes .*lora_ga, which .* does not have"),
        (
            {f"{PEFT}{Q0}.lora_{factor}.weight": torch.zeros(2, 2, 3, 3) for factor in "AB"},
            "a convolution; only matrices can be merged",
        ),
        ({}, "adapter_model.safetensors of .* is empty"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", tensors)
    with pytest.raises(CheckpointError, match=message):
        merged(Adapter(name=str(folder)))


def test_a_tensor_that_is_replaced_takes_no_other_weight_than_1(tmp_path: Path) -> None:
    size = merged()[f"{Q0}.weight"].shape
    folder = write_adapter(tmp_path / "lora", {f"{PEFT}{Q0}.modules_to_save.weight": torch.zeros(size)})
    assert not merged(Adapter(name=str(folder)))[f"{Q0}.weight"].any()
    with pytest.raises(CheckpointError, match=r"so its weight must be 1, got 0\.5"):
        merged(Adapter(name=str(folder), weight=0.5))
    other = write_adapter(tmp_path / "other", factors(Q0, size))
    with pytest.raises(CheckpointError, match=rf"2 adapters change {Q0}.weight, and one of them replaces it"):
        merged(Adapter(name=str(folder)), Adapter(name=str(other)))
    magnitudes = {f"{PEFT}{Q0}.lora_magnitude_vector": torch.ones(size[0])}
    dora = write_adapter(tmp_path / "dora", factors(Q0, size) | magnitudes, use_dora=True)
    with pytest.raises(CheckpointError, match=r"is a DoRA, so its weight must be 1, got 0\.5"):
        merged(Adapter(name=str(dora), weight=0.5))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json, so it is not an adapter as PEFT saves"):
        open_adapter(str(TINY))
    folder = write_adapter(tmp_path / "lora", factors(Q0, (64, 64)))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights: expected adapter_model.safetensors, adapter_model.b"):
        open_adapter(str(folder))


def test_the_digest_covers_settings_and_weights(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora", factors(Q0, (64, 64)))
    before = weights_digest(open_adapter(str(folder)))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert weights_digest(open_adapter(str(copy))) == before
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 7}))
    assert weights_digest(open_adapter(str(copy))) != before


def test_a_bin_file_is_read_like_safetensors(tmp_path: Path) -> None:
    size = merged()[f"{Q0}.weight"].shape
    folder = write_adapter(tmp_path / "lora", factors(Q0, size))
    expected = merged(Adapter(name=str(folder)))[f"{Q0}.weight"]
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert "is empty; adapter_model.bin is used" in (open_adapter(str(folder)).note or "")
    assert torch.equal(merged(Adapter(name=str(folder)))[f"{Q0}.weight"], expected)
