"""The same tensors from every layout and format, and the files that are refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.errors import CheckpointError
from actors.janus.network import read_weights, tensor_shapes
from actors.janusflow.network import read_weights as read_flow_weights
from tests.support.checkpoints import FLOW, TINY, fetched
from tests.support.transformers_layout import transformers_config, transformers_name


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    """All tensors of janus-tiny, as stored."""
    return load_file(TINY / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """janus-tiny without its weights."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(TINY, tmp_path / "tiny", ignore=ignore))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return read_weights(fetched(folder), dtype=dtype, device="cpu")


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor), name


def write_sharded(folder: Path, tensors: dict[str, torch.Tensor], ending: str) -> list[Path]:
    """Three shards with an index, as save_pretrained writes them."""
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i:05d}-of-00003.{ending}" for i in (1, 2, 3)]
    weight_map = {name: names[i % 3] for i, name in enumerate(tensors)}
    for file_name in names:
        part = {name: tensors[name] for name, where in weight_map.items() if where == file_name}
        save_file(part, folder / file_name) if ending == "safetensors" else torch.save(part, folder / file_name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return [folder / name for name in names]


def test_only_the_tensors_that_generation_needs_are_loaded(stored: dict[str, torch.Tensor]) -> None:
    weights = load(TINY)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert shapes == tensor_shapes(fetched(TINY).shape)
    assert_same(weights, {name: stored[name].float() for name in weights})


def test_janusflow_is_loaded_the_same_way() -> None:
    stored = load_file(FLOW / "model.safetensors")
    weights = read_flow_weights(fetched(FLOW), dtype=torch.float32, device="cpu")
    assert_same(weights, {name: stored[name].float() for name in weights})
    left = stored.keys() - weights.keys()
    assert {"beg_of_und_embed", "language_model.lm_head.weight", "vision_und_enc_aligner.weight"} < left
    assert not any(name.startswith(("vision_gen_", "language_model.model.")) for name in left)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_hold_the_same_tensors(ending: str, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    write_sharded(folder, stored, ending)
    assert_same(load(folder), load(TINY))


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_a_bin_file_holds_the_same_tensors(as_zip: bool, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    torch.save(stored, folder / "pytorch_model.bin", _use_new_zipfile_serialization=as_zip)
    assert_same(load(folder), load(TINY))


def test_the_transformers_layout_holds_the_same_tensors(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    """A real transformers model takes the renamed tensors, saves itself, and is read back."""
    transformers = pytest.importorskip("transformers")
    config = transformers.JanusConfig(**copy.deepcopy(transformers_config()), tie_word_embeddings=False)
    model = transformers.JanusForConditionalGeneration(config).to(torch.bfloat16)
    needed = {transformers_name(name): stored[name] for name in tensor_shapes(fetched(TINY).shape)}
    outcome = model.load_state_dict(needed, strict=False)
    assert outcome.unexpected_keys == []
    untouched = (
        "model.vision_model.",
        "model.aligner.",
        "model.vqmodel.encoder.",
        "model.vqmodel.quant_conv.",
        "lm_head.",
    )
    assert [name for name in outcome.missing_keys if not name.startswith(untouched)] == []
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "janus"
    assert_same(load(folder), load(TINY))


def test_only_the_transformers_layout_is_renamed(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    renamed = {transformers_name(name): tensor for name, tensor in stored.items()}
    save_file(renamed, folder / "model.safetensors")
    message = r"none of the 226 tensors .*such as gen_aligner.layers.0.bias; it holds lm_head.weight, model.aligner"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_come_in_the_dtype_asked_for(dtype: torch.dtype, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.half() for name, tensor in stored.items()}, folder / "model.safetensors")
    expected = {name: stored[name].half().to(dtype) for name in load(TINY)}
    assert_same(load(folder, dtype=dtype), expected)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_loaded_weights_survive_changes_to_their_file(
    ending: str, folder: Path, stored: dict[str, torch.Tensor]
) -> None:
    paths = write_sharded(folder, stored, ending)
    weights = load(folder, dtype=torch.bfloat16)  # as stored: no conversion makes a copy by itself
    for path in paths:
        path.write_bytes(bytes(path.stat().st_size))
    assert_same(weights, load(TINY, dtype=torch.bfloat16))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in weights.values())


def test_a_missing_tensor_is_named(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    without = {name: tensor for name, tensor in stored.items() if name != "gen_head.vision_head.bias"}
    save_file(without, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor that this job needs: gen_head.vision_head.bias$"):
        load(folder)


def test_a_file_without_tensors_is_refused(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"none of the 226 tensors .*gen_aligner.layers.0.bias; it holds no tens"):
        load(folder)


def test_a_config_of_other_layers_than_the_weights_is_refused(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    save_file(stored, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["language_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers in config.json of .* is 3, but .* has 2 layers"):
        load(folder)
    config["language_config"]["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers in config.json of .* is 1, but .* has 2 layers"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("language_model.new.weight", "holds 1 tensor that no janus model has: language_model.new.weight$"),
        (
            "language_model.x.q_proj.lora_A.weight",
            "an adapter that is not merged .*, such as .*lora_A.weight; merge it",
        ),
        ("language_model.x.q_proj.weight.absmax", "are quantized, as .*absmax shows; use the original"),
        ("language_model.x.q_proj.qweight", "are quantized, as .*qweight shows; use the original"),
    ],
)
def test_an_unknown_tensor_is_named(name: str, message: str, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    save_file({**stored, name: torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("prefix", ["", "language_model."], ids=["saved alone", "in its place"])
def test_a_language_model_alone_is_named(prefix: str, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    language = {name: tensor for name, tensor in stored.items() if name.startswith("language_model.")}
    renamed = {prefix + name.removeprefix("language_model."): tensor for name, tensor in language.items()}
    save_file(renamed, folder / "model.safetensors")
    message = r"a language model alone, without its parts for images \(gen_aligner, gen_embed, gen_head, gen_vision"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "language_model.model.rotary_emb.inv_freq",
        "language_model.model.layers.1.self_attn.rotary_emb.cos_cached",
        "language_model.model.embeddings.position_ids",
        "position_ids",
        "gen_vision_model.decoder.norm_out.num_batches_tracked",
    ],
)
def test_tables_that_follow_from_the_config_are_harmless(
    name: str, folder: Path, stored: dict[str, torch.Tensor]
) -> None:
    save_file({**stored, name: torch.arange(8)}, folder / "model.safetensors")
    assert_same(load(folder), load(TINY))


def test_a_tensor_of_another_shape_is_shown_with_both(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    save_file({**stored, "gen_embed.weight": torch.zeros(64, 16)}, folder / "model.safetensors")
    message = r"gen_embed.weight of .* has shape \[64, 16\], its config.json means \[64, 8\]"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_shard_cut_short_is_named(ending: str, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    path = write_sharded(folder, stored, ending)[1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} is damaged.* cut short"):
        load(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    first, second, _ = write_sharded(folder, stored, "safetensors")
    twice = load_file(first)
    save_file({**load_file(second), "gen_embed.weight": stored["gen_embed.weight"]}, second)
    save_file({**twice, "gen_embed.weight": stored["gen_embed.weight"]}, first)
    with pytest.raises(CheckpointError, match=r"gen_embed.weight is twice in .*-00001-of-\S+ and .*-00002-of-"):
        load(folder)


@pytest.mark.parametrize(
    "wrapped", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_fsdp_wrapped_module.{}", "model.{}", "vl.gpt.{}"]
)
def test_the_names_of_wrappers_are_left_out(wrapped: str, folder: Path, stored: dict[str, torch.Tensor]) -> None:
    save_file({wrapped.format(name): tensor for name, tensor in stored.items()}, folder / "model.safetensors")
    assert_same(load(folder), load(TINY))


def test_weights_next_to_a_copy_under_an_outer_name_are_not_mixed(
    folder: Path, stored: dict[str, torch.Tensor]
) -> None:
    average = {f"ema.{name}": tensor.clone() for name, tensor in stored.items()}
    save_file({**average, **stored}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 420 tensors that no janus model has: ema\.aligner"):
        load(folder)


def test_a_wrapper_inside_the_model_is_left_out_too(folder: Path, stored: dict[str, torch.Tensor]) -> None:
    for part, wrapped in (
        ("model.layers.", "_orig_mod.model.layers."),
        ("self_attn.", "_fsdp_wrapped_module.self_attn."),
    ):
        stored = {name.replace(part, wrapped): tensor for name, tensor in stored.items()}
    save_file(stored, folder / "model.safetensors")
    assert_same(load(folder), load(TINY))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "module", "model"])
def test_a_state_dict_next_to_the_state_of_its_training_is_read(
    key: str, folder: Path, stored: dict[str, torch.Tensor]
) -> None:
    torch.save({key: stored, "epoch": 3}, folder / "pytorch_model.bin")
    assert_same(load(folder), load(TINY))


@pytest.mark.parametrize("lm_head", ["missing", "tied"])
def test_a_missing_or_tied_head_for_text_is_no_fault(
    lm_head: str, folder: Path, stored: dict[str, torch.Tensor]
) -> None:
    tensors = {name: tensor for name, tensor in stored.items() if "lm_head" not in name}
    if lm_head == "tied":
        tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    assert_same(load(folder), load(TINY))
