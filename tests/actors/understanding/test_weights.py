"""Every tensor that looking needs is found, and every other one is accounted for, in every layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.checkpoint.models import with_adapters
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError
from actors.recipe import Adapter
from actors.understanding.config import read_vision_shape
from actors.understanding.weights import (
    LM_HEAD,
    NOT_NEEDED,
    TEXT_MODEL,
    read_vision_weights,
    stored_shapes,
)
from tests.support.adapters import PEFT, write_adapter
from tests.support.checkpoints import FLOW, TINY, fetched, published
from tests.support.looking import write_transformers_layout

# Tensors beyond generation: the tower's 2 + 1 + 12 a block + 2, the aligner's, lm_head, and JanusFlow's embedding.
NUM_NEEDED = {"Janus-1.3B": 293 + 4 + 1, "Janus-Pro-1B": 298, "Janus-Pro-7B": 298, "JanusFlow-1.3B": 293 + 2 + 1 + 1}


def read(model: Path | Checkpoint, *, with_text_model: bool = False) -> dict[str, torch.Tensor]:
    checkpoint = fetched(model) if isinstance(model, Path) else model
    shape = read_vision_shape(checkpoint.config)
    return read_vision_weights(checkpoint, shape, dtype=torch.float32, device="cpu", with_text_model=with_text_model)


@pytest.mark.parametrize("model", NUM_NEEDED)
def test_every_tensor_of_a_published_checkpoint_is_accounted_for(model: str) -> None:
    config, state_dict = published(model)
    needed = stored_shapes(read_vision_shape(config), 102400)
    assert len(needed) == NUM_NEEDED[model]
    assert {name: state_dict.get(name) for name in needed} == needed
    others = [name for name in state_dict if name not in needed and not name.startswith((*NOT_NEEDED, TEXT_MODEL))]
    assert others == []


@pytest.mark.parametrize("folder", [TINY, FLOW])
def test_the_text_model_is_read_only_if_it_is_asked_for(folder: Path) -> None:
    alone, whole = read(folder), read(folder, with_text_model=True)
    assert not any(name.startswith(TEXT_MODEL) for name in alone)
    assert len(whole) == len(alone) + 2 + 9 * 2


def test_both_layouts_have_the_same_tensors(tmp_path: Path) -> None:
    original, renamed = (
        read(TINY, with_text_model=True),
        read(write_transformers_layout(tmp_path / "renamed"), with_text_model=True),
    )
    assert renamed.keys() == original.keys()
    assert [name for name in original if not torch.equal(renamed[name], original[name])] == []


@pytest.mark.parametrize("declared", [None, True])
def test_a_missing_text_head_is_tied_in_the_transformers_layout(declared: bool | None, tmp_path: Path) -> None:
    folder = write_transformers_layout(tmp_path / "tied")
    drop_tensor(folder, "lm_head.weight")
    declare(folder, "text_config", declared)
    weights = read(folder, with_text_model=True)
    assert torch.equal(weights[LM_HEAD], weights[f"{TEXT_MODEL}embed_tokens.weight"])
    assert weights[LM_HEAD].data_ptr() == weights[f"{TEXT_MODEL}embed_tokens.weight"].data_ptr()


@pytest.mark.parametrize("with_text_model", [False, True])
def test_an_adapter_of_the_embeddings_changes_the_text_head_that_is_tied_to_them(
    with_text_model: bool, tmp_path: Path
) -> None:
    folder = write_transformers_layout(tmp_path / "tied")
    drop_tensor(folder, "lm_head.weight")
    before = read(folder)[LM_HEAD]
    a_RV, b_CR = torch.randn(2, len(before)), torch.randn(before.shape[1], 2)
    module = f"{PEFT}{TEXT_MODEL}embed_tokens"
    tensors = {f"{module}.lora_embedding_A": a_RV, f"{module}.lora_embedding_B": b_CR}
    adapter = Adapter(name=str(write_adapter(tmp_path / "lora", tensors)))
    after = read(with_adapters(fetched(folder), [adapter]), with_text_model=with_text_model)[LM_HEAD]
    torch.testing.assert_close(after, before + 3 * (b_CR @ a_RV).T)


@pytest.mark.parametrize(("layout", "declared"), [("original", None), ("original", False), ("transformers", False)])
def test_a_missing_text_head_that_is_not_tied_is_refused(layout: str, declared: bool | None, tmp_path: Path) -> None:
    folder = write_transformers_layout(tmp_path / "renamed") if layout == "transformers" else copy_of(TINY, tmp_path)
    drop_tensor(folder, "lm_head.weight" if layout == "transformers" else "language_model.lm_head.weight")
    declare(folder, "text_config" if layout == "transformers" else "language_config", declared)
    with pytest.raises(
        CheckpointError, match=re.escape("lacks 1 tensor that this job needs: language_model.lm_head.weight")
    ):
        read(folder)


def test_a_checkpoint_without_a_tower_is_refused(tmp_path: Path) -> None:
    folder = copy_of(TINY, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("vision_model.")}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 29 tensors that this job needs: vision_model"):
        read(folder)


def test_a_model_that_only_generates_is_not_taken_for_a_language_model(tmp_path: Path) -> None:
    folder = copy_of(TINY, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith(("vision_model.", "aligner."))}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 33 tensors that this job needs: aligner"):
        read(folder)


def copy_of(folder: Path, parent: Path) -> Path:
    return Path(shutil.copytree(folder, parent / folder.name))


def drop_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def declare(folder: Path, section: str, is_tied: bool | None) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if is_tied is not None:
        config[section]["tie_word_embeddings"] = is_tied
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
