"""The doctor finds the pad-id accident in each of its forms, and leaves a sound checkpoint alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.checkpoint.doctor import (
    Finding,
    check_guidance,
    check_speed,
    check_tags,
    check_tokenizer,
    check_weights,
    probe_request,
)
from actors.checkpoint.find import _BUNDLED_ROOT as BUNDLED_ROOT
from actors.checkpoint.open import open_checkpoint, weights_digest
from actors.engines import load_engine, open_engine
from actors.errors import CheckpointError
from actors.janus.probe import TemplateProbe
from actors.prompt.template import PROMPT_FORMATS, PromptTemplate
from actors.prompt.tokenizer import PAD
from actors.recipe import Recipe
from actors.request import ImageRequest
from tests.support import flow_engine, janus_engine
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


# ---- role tags that are a guess --------------------------------------------------------------------------------------


class _Probed:
    """An engine with these entropies and effects of guidance for the two pairs of tags."""

    def __init__(self, **probes: tuple[float, float]) -> None:
        self._probes = {
            name.replace("_", "-"): TemplateProbe(entropy=entropy, guidance_effect=effect)
            for name, (entropy, effect) in probes.items()
        }

    def probe_template(self, template: PromptTemplate, requests: object) -> TemplateProbe:
        return self._probes[next(name for name, known in PROMPT_FORMATS.items() if known == template)]


@pytest.mark.parametrize(
    ("probes", "recommended"),
    [
        ({"janus": (1.0, 2.0), "janus_pro": (4.0, 1.0)}, "janus"),
        ({"janus": (4.0, 1.0), "janus_pro": (1.0, 2.0)}, "janus-pro"),
        ({"janus": (1.0, 0.98), "janus_pro": (2.0, 1.0)}, "janus"),  # much surer, and hardly less guided
        ({"janus": (1.0, 1.0), "janus_pro": (1.01, 1.01)}, None),
        ({"janus": (1.0, 1.0), "janus_pro": (2.0, 2.0)}, None),  # surer, but it follows the prompt less
    ],
)
def test_the_tags_under_which_the_model_is_surer_are_recommended(
    probes: dict[str, tuple[float, float]], recommended: str | None
) -> None:
    *compared, verdict = check_tags(_Probed(**probes), fetched(DATA / "janus-tiny"))
    assert [finding.check for finding in compared] == ["tags janus", "tags janus-pro"]
    assert verdict.facts == {"recommended_prompt_format": recommended}
    assert (verdict.is_ok, verdict.is_note) == (True, True)


def test_tags_that_are_known_are_not_compared() -> None:
    assert list(check_tags(_Probed(), fetched(DATA / "janus-tiny", "janus"))) == []


def test_the_tags_of_the_trained_checkpoint_are_found_again(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLED_ROOT / "janus-shapes", tmp_path / "copy"))
    checkpoint = fetched(copy)
    engine = load_engine(dataclasses.replace(recipe_of(copy), checkpoint=str(copy)), checkpoint)
    assert list(check_tags(engine, checkpoint))[-1].facts == {"recommended_prompt_format": "janus-pro"}


# ---- weights and speed -----------------------------------------------------------------------------------------------


def test_the_stored_dtypes_and_the_missing_parts_are_named(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    tensors["gen_embed.weight"] = tensors["gen_embed.weight"].half()
    save_file(tensors, checkpoint / "model.safetensors")
    dtype, head, tower = check_weights(fetched(checkpoint))
    assert set(dtype.facts["stored_dtypes"]) == {"bfloat16", "float16"}
    assert (head.facts, head.is_note) == ({"has_text_head": False}, True)
    assert (tower.facts, tower.is_note) == ({"has_vision_tower": True}, False)
    edit(checkpoint / "config.json", lambda fields: fields["language_config"].update(tie_word_embeddings=True))
    assert [finding.facts for finding in check_weights(fetched(checkpoint))][1] == {"has_text_head": True}


@pytest.mark.parametrize(("name", "has_tower"), [("janus-shapes", True), ("janusflow-shapes", False)])
def test_a_decoder_of_images_is_not_taken_for_a_vision_tower(name: str, has_tower: bool) -> None:
    """`gen_vision_model` ends like `vision_model`."""
    *_, tower = check_weights(fetched(BUNDLED_ROOT / name))
    assert (tower.facts, tower.is_note) == ({"has_vision_tower": has_tower}, not has_tower)


class _Timed:
    device, default_batch_size = "cpu", 8

    def seconds_per_batch(self, request: ImageRequest) -> float:
        assert request.cfg_weight == 2.0
        return 4.0


def test_the_throughput_is_that_of_a_batch() -> None:
    (finding,) = check_speed(_Timed(), probe_request("a fox", settings={"cfg_weight": 2.0}))
    assert finding.detail == "about 2 images/s on cpu; a batch of 8 takes 4 s"
    assert finding.facts == {"images_per_second": 2.0, "batch_size": 8, "device": "cpu"}


@pytest.mark.parametrize("name", ["janus", "janusflow"])
def test_engines_estimate_the_time_of_a_batch(name: str) -> None:
    janus = janus_engine.engine() if name == "janus" else flow_engine.engine()
    request = probe_request("a fox", settings={"num_inference_steps": 3, "solver": "euler"})
    assert 0 < janus.seconds_per_batch(request) < 600
