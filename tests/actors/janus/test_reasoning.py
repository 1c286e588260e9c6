"""The text before an image: against transformers' own generation, in any batch, and the image that follows it."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.generation.logits_process import TopKLogitsWarper

from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError
from actors.janus.network import TEXT_HEAD, read_weights
from actors.janus.reasoning import Reasoner, Reasoning
from actors.noise import text_noise, uniform_noise
from actors.prompt.protocol import PROTOCOLS
from actors.request import ImageRequest, Rejection, RenderedImage
from tests.support.checkpoints import TINY, fetched
from tests.support.janus_engine import PROMPTS, engine, mixed_requests, request
from tests.support.random_llama import transformers_llama_config

NUM = 24  # tokens of a text in these tests


@functools.cache
def llama() -> transformers.LlamaForCausalLM:
    """The text model of the tiny checkpoint, as transformers runs it."""
    weights = {name: tensor.float() for name, tensor in load_file(TINY / "model.safetensors").items()}
    model = transformers.LlamaForCausalLM(transformers_llama_config(fetched(TINY).shape.llama)).eval()
    prefix = "language_model."
    text = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    model.load_state_dict(text, strict=True)
    return model


@functools.cache
def reasoner(name: str, **changes: object) -> Reasoner:
    janus = engine()
    protocol = dataclasses.replace(PROTOCOLS[name], **{"max_tokens": NUM, **changes})
    weights = read_weights(fetched(TINY), dtype=torch.float32, device=janus.torch_device, with_text_head=True)
    return Reasoner(protocol, janus.tokenizer, janus.model.llama, weights[TEXT_HEAD], janus.loops)


@torch.inference_mode()
def sampled(writer: Reasoner, requests: list[ImageRequest]) -> list[list[int] | None]:
    states = writer.loops.model.llama.prefill([writer.question(one.prompt) for one in requests])
    return writer._sample(requests, states)


# ---- against transformers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
@torch.inference_mode()
def test_the_most_probable_text_is_that_of_transformers(name: str) -> None:
    writer = reasoner(name, temperature=0.0, top_k=None)
    for prompt in PROMPTS[:2]:
        question = torch.tensor([writer.question(prompt)])
        ends = list(writer.ends[: 1 + writer.protocol.ends_with_sentence])
        answer = llama().generate(question, max_new_tokens=NUM, do_sample=False, eos_token_id=ends, pad_token_id=0)
        (ids,) = sampled(writer, [request(prompt)])
        assert ids is not None
        assert ids[: answer.shape[1] - question.shape[1]] == answer[0, question.shape[1] :].tolist()


@pytest.mark.parametrize("top_k", [None, 50])
@torch.inference_mode()
def test_a_sampled_text_follows_the_probabilities_of_transformers(top_k: int | None) -> None:
    """Inverse CDF of transformers' logits, after its own top-k, with the image's numbers."""
    writer = reasoner("t2i-r1", top_k=top_k)
    asked = request(PROMPTS[0], seed=7)
    (ids,) = sampled(writer, [asked])
    assert ids is not None
    question = writer.question(asked.prompt)
    logits_NV = llama()(torch.tensor([[*question, *ids]])).logits[0, len(question) - 1 : -1]
    if top_k:
        logits_NV = TopKLogitsWarper(top_k)(None, logits_NV)
    cdf_NV = torch.softmax(logits_NV, dim=-1).cumsum(-1, dtype=torch.float64)
    uniform_N = torch.from_numpy(text_noise(asked.seed, len(ids))) * cdf_NV[:, -1]
    assert torch.searchsorted(cdf_NV, uniform_N[:, None], right=True)[:, 0].tolist() == ids


# ---- one text for one prompt and seed --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2i-r1", "reasongen-r1"])
def test_a_text_is_the_same_in_any_batch(name: str) -> None:
    writer, requests = reasoner(name), mixed_requests(7)
    together = sampled(writer, requests)
    assert len({tuple(ids or ()) for ids in together}) > 1
    for one, ids in zip(requests, together, strict=True):
        assert sampled(writer, [one]) == [ids]
    assert sampled(writer, requests[::-1]) == together[::-1]


def test_images_of_one_prompt_and_seed_share_a_text_and_other_seeds_do_not() -> None:
    writer = reasoner("got-r1")
    weak, strong = (request(PROMPTS[0], image_id=str(weight), cfg_weight=weight, seed=3) for weight in (1.0, 5.0))
    same, again, other = writer.write([weak, strong, request(PROMPTS[0], seed=4)])
    assert same == again != other


def test_the_numbers_of_the_text_are_not_those_of_the_codes() -> None:
    assert not np.intersect1d(text_noise(5, 600), uniform_noise(5, 600)).size
    bits = (16537810034265420718, 10237331883048570337)  # numpy's Philox, key 5, from block 2**192 on
    assert text_noise(5, 2).tolist() == [(number >> 11) * 2.0**-53 for number in bits]


# ---- the image after it ----------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, protocol in PROTOCOLS.items():
        monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(protocol, max_tokens=NUM))


def rendered(janus, requests: list[ImageRequest]) -> list[RenderedImage]:
    answers = janus.render(requests)
    assert all(isinstance(answer, RenderedImage) for answer in answers), answers
    return answers


def test_a_rewritten_prompt_gives_the_image_of_that_prompt(short: None) -> None:
    (image,) = rendered(engine(protocol="t2i-r1"), [request(PROMPTS[0], seed=3, temperature=1.0)])
    (plain,) = rendered(engine(), [request(f"{PROMPTS[0].strip()}. {image.reasoning}", seed=3, temperature=1.0)])
    assert image.reasoning
    assert plain.reasoning is None
    assert np.array_equal(image.pixels, plain.pixels)


@pytest.mark.parametrize("name", ["got-r1", "reasongen-r1"])
def test_otherwise_the_image_follows_question_and_text(name: str, short: None) -> None:
    janus, asked = engine(protocol=name), request(PROMPTS[0], seed=3)
    (written,) = janus.reasoner.write([asked])
    assert isinstance(written, Reasoning)
    question = janus.reasoner.question(asked.prompt)
    begin = janus.tokenizer.begin_of_image_id
    assert (written.cond[: len(question)], written.cond[-1]) == (question, begin)
    assert begin not in written.cond[:-1]
    assert janus.tokenize(asked, written).uncond == janus.tokenizer.uncond_ids(len(written.cond))


def test_an_image_with_a_text_is_the_same_in_any_batch(short: None) -> None:
    janus, requests = engine(protocol="reasongen-r1"), mixed_requests(5)
    together = rendered(janus, requests)
    for one, image in zip(requests, together, strict=True):
        (alone,) = rendered(janus, [one])
        assert (alone.reasoning, alone.pixels.tobytes()) == (image.reasoning, image.pixels.tobytes())


def test_a_text_that_leaves_no_room_for_the_image_rejects_that_image(short: None) -> None:
    janus = engine(protocol="t2i-r1")
    janus.loops.longest_prompt = len(janus.tokenizer.cond_ids("a fox")) + 2
    (answer,) = janus.render([request("a fox", image_id="fox")])
    assert isinstance(answer, Rejection)
    assert answer.image_id == "fox"
    assert answer.reason.startswith("with the text before the image the prompt has ")


def test_a_prompt_must_leave_room_for_the_longest_text() -> None:
    janus = engine(protocol="got-r1")
    assert janus.refusal(request("a fox")) is None
    assert "prompt must have at most 988 tokens" in (janus.refusal(request("a fox " * 150)) or "")
    assert engine().refusal(request("a fox " * 150)) is None


def test_logits_that_are_not_finite_reject_the_image(short: None) -> None:
    janus = engine(protocol="got-r1")
    janus.reasoner.loops.model.head.second = lambda x_RC: x_RC.new_full((len(x_RC), 400), torch.nan)
    (answer,) = janus.render([request("a fox")])
    assert isinstance(answer, Rejection)
    assert answer.reason == "the model's logits became NaN or infinite while it wrote the text before the image"


# ---- the head that predicts text -------------------------------------------------------------------------------------


def with_weights(folder: Path, *, without_head: bool, tie_word_embeddings: bool, prefix: str = "") -> Checkpoint:
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    tensors = load_file(TINY / "model.safetensors")
    if without_head:
        del tensors[TEXT_HEAD]
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["language_config"]["tie_word_embeddings"] = tie_word_embeddings
    (folder / "config.json").write_text(json.dumps(config))
    return fetched(folder)


def test_a_tied_head_is_the_table_of_embeddings(tmp_path: Path) -> None:
    tied = with_weights(tmp_path, without_head=True, tie_word_embeddings=True)
    weights = read_weights(tied, dtype=torch.float32, device="cpu", with_text_head=True)
    assert torch.equal(weights[TEXT_HEAD], weights["language_model.model.embed_tokens.weight"])


def test_a_stored_head_is_used_also_if_the_config_ties_it(tmp_path: Path) -> None:
    stored = with_weights(tmp_path, without_head=False, tie_word_embeddings=True, prefix="module.")
    weights = read_weights(stored, dtype=torch.float32, device="cpu", with_text_head=True)
    assert not torch.equal(weights[TEXT_HEAD], weights["language_model.model.embed_tokens.weight"])


def test_a_model_without_a_head_writes_no_text(tmp_path: Path) -> None:
    missing = with_weights(tmp_path, without_head=True, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor .*language_model.lm_head.weight"):
        read_weights(missing, dtype=torch.float32, device="cpu", with_text_head=True)
    assert TEXT_HEAD not in read_weights(missing, dtype=torch.float32, device="cpu")
