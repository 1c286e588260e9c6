"""The doctor finds the pad-id accident in each of its forms, and leaves a sound checkpoint alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from actors.checkpoint.doctor import Finding, check_guidance, check_tokenizer
from actors.checkpoint.open import open_checkpoint, weights_digest
from actors.engines import open_engine
from actors.errors import CheckpointError
from actors.prompt.tokenizer import PAD
from actors.recipe import Recipe
from tests.support.checkpoints import DATA, fetched


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the tiny Janus checkpoint, to be broken."""
    return Path(shutil.copytree(DATA / "janus-tiny", tmp_path / "janus-tiny"))


def recipe_of(folder: Path) -> Recipe:
    found = open_checkpoint(str(folder))
    return Recipe(
        family="janus",
        checkpoint=str(folder),
        revision=None,
        weights_sha256=weights_digest(found),
        prompt_format=found.prompt_format,
        vae=None,
        vae_revision=None,
        vae_sha256=None,
        dtype="float32",
        sampler="janus-3",
        cfg_weights=(5.0,),
        temperature=1.0,
        num_inference_steps=None,
        images_per_prompt=1,
        seed=0,
    )


def edit(path: Path, change) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")


def faults(findings) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if not finding.is_ok}


@pytest.mark.parametrize(("name", "prompt_format"), [("janus-tiny", "janus-pro"), ("janusflow-tiny", "janus")])
def test_a_sound_tokenizer_has_no_faults(name: str, prompt_format: str) -> None:
    findings = list(check_tokenizer(fetched(DATA / name, prompt_format)))
    assert len(findings) == 6
    assert not faults(findings)


def test_a_tokenizer_config_that_calls_another_token_the_pad_is_found(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", lambda fields: fields.update(pad_token="<｜end▁of▁sentence｜>"))
    found = faults(check_tokenizer(fetched(checkpoint, "janus-pro")))
    assert list(found) == ["pad settings"]
    assert "tokenizer_config.json calls '<｜end▁of▁sentence｜>' the pad token" in found["pad settings"].detail


def test_a_tokenizer_config_that_gives_the_pad_another_id_is_found(checkpoint: Path) -> None:
    tokens = {"302": {"content": "<begin_of_image>"}, "303": {"content": PAD}}
    edit(checkpoint / "tokenizer_config.json", lambda fields: fields.update(added_tokens_decoder=tokens))
    found = faults(check_tokenizer(fetched(checkpoint, "janus-pro")))
    assert "gives id 303 to" in found["pad settings"].detail


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html>", "is a page of HTML"),
        (b"", "is empty"),
        (b"[]", "must hold a JSON object"),
        (b'{"pad_token": 7}', "calls 7 the pad token"),
        (b'{"pad_token": {"content": ["x"]}}', r"calls \['x'\] the pad token"),
        (b'{"pad_token_id": "x"}', "gives pad_token_id 'x'"),
        (b'{"added_tokens_decoder": ["<pad>"]}', r"must hold an object added_tokens_decoder, got \['<pad>'\]"),
        (b'{"added_tokens_decoder": {"0": "<pad>"}}', "must give each id in added_tokens_decoder an object"),
        (b'{"added_tokens_decoder": {"x": {"content": "y"}}}', "must give each id .* got 'x'"),
        (b'{"added_tokens_decoder": {"0": {"content": 1}}}', "must give each id .* got '0'"),
    ],
)
def test_settings_files_of_an_odd_shape_are_faults(content: bytes, message: str, name: str, checkpoint: Path) -> None:
    (checkpoint / name).write_bytes(content)
    found = faults(check_tokenizer(fetched(checkpoint, "janus-pro")))
    assert list(found) == ["pad settings"]
    assert re.search(f"{name} .*{message}", found["pad settings"].detail)


@pytest.mark.parametrize("added_tokens_decoder", [None, {}])
def test_settings_files_may_say_nothing(added_tokens_decoder: object, checkpoint: Path) -> None:
    settings = {"pad_token": None, "pad_token_id": None, "added_tokens_decoder": added_tokens_decoder}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not faults(check_tokenizer(fetched(checkpoint, "janus-pro")))


def test_a_vocabulary_in_which_the_pad_is_a_word_is_found(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer.json", lambda fields: fields["model"]["vocab"].update({PAD: 259}))
    found = faults(check_tokenizer(fetched(checkpoint, "janus-pro")))
    assert f"token {PAD}" in found
    assert "which is also the id of" in found[f"token {PAD}"].detail


class _Engine:
    """An engine that predicts what it is given."""

    def __init__(self, cond: torch.Tensor, uncond: torch.Tensor) -> None:
        self._predictions = cond, uncond

    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._predictions


def test_guidance_without_an_effect_is_a_fault() -> None:
    logits = torch.arange(8.0)
    assert list(faults(check_guidance(_Engine(logits, logits + 1e-6)))) == ["guidance"]
    assert not faults(check_guidance(_Engine(logits, logits.flip(0))))


def test_nan_in_the_prediction_is_a_fault() -> None:
    logits = torch.arange(8.0)
    assert set(faults(check_guidance(_Engine(logits, logits / 0 - torch.inf)))) == {"NaN", "guidance"}


def test_a_faulty_checkpoint_is_refused_unless_faults_are_allowed(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", lambda fields: fields.update(pad_token="<begin_of_image>"))
    recipe = recipe_of(checkpoint)
    with pytest.raises(CheckpointError, match=r"is faulty \(pad settings: .*model.allow_faults: true"):
        open_engine(recipe, {})
    assert open_engine(recipe, {}, allow_faults=True).device
