"""The Janus engine against the reference implementation's numbers and transformers' own, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.janus.engine import JanusEngine
from actors.janus.network import read_weights
from actors.janus.sampler import sample_codes
from actors.prompt.template import PROMPT_FORMATS
from actors.request import ImageRequest, Rejection
from benchmarks.random_models import recipe
from tests.actors.checkpoint.test_weights import transformers_config, transformers_name
from tests.support.checkpoints import TINY, fetched
from tests.support.janus_engine import GOLDENS, PROMPTS, decode, engine, request

WEIGHTS = ("1", "5", "7.5")


@pytest.fixture(scope="module")
def janus() -> JanusEngine:
    return engine()


def assert_same_image(pixels: np.ndarray, golden: np.ndarray) -> None:
    difference = np.abs(pixels.astype(int) - golden)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


# ---- the reference's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("index", range(3))
def test_greedy_codes_and_images_match_the_reference(janus: JanusEngine, index: int, weight: str) -> None:
    golden = np.load(GOLDENS / "janus_greedy.npz")
    (image,) = janus.render([request(PROMPTS[index], cfg_weight=float(weight))])
    assert image.codes.tolist() == golden[f"p{index}_cfg{weight}_tokens"].tolist()
    assert_same_image(image.pixels, golden[f"p{index}_cfg{weight}_image"])


def test_a_mixed_batch_gives_each_image_the_references_codes(janus: JanusEngine) -> None:
    golden = np.load(GOLDENS / "janus_greedy.npz")
    cases = [(index, weight) for index in range(3) for weight in WEIGHTS]
    images = janus.render([request(PROMPTS[index], cfg_weight=float(weight)) for index, weight in cases])
    for image, (index, weight) in zip(images, cases, strict=True):
        assert image.codes.tolist() == golden[f"p{index}_cfg{weight}_tokens"].tolist()


@pytest.mark.parametrize("index", range(3))
def test_the_role_tags_of_janus_1_3b_give_their_own_codes(index: int) -> None:
    golden = np.load(GOLDENS / "janus_greedy.npz")
    (image,) = engine(prompt_format="janus").render([request(PROMPTS[index])])
    assert image.codes.tolist() == golden[f"p{index}_janusstyle_cfg5_tokens"].tolist()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("index", range(3))
def test_guided_logits_of_the_first_steps_match_the_reference(janus: JanusEngine, index: int, weight: str) -> None:
    golden = np.load(GOLDENS / "janus_greedy.npz")
    tokens = torch.tensor(golden[f"p{index}_cfg{weight}_tokens"]).long()
    logits = []
    decode(
        janus,
        [request(PROMPTS[index], cfg_weight=float(weight))],
        lambda step, now: logits.append(now) or tokens[step][None],
    )
    np.testing.assert_allclose(torch.cat(logits[:8]), golden[f"p{index}_cfg{weight}_cfg_logits"], atol=2e-3)


def _sampled_runs() -> list[str]:
    return [
        name.removesuffix("_uniform") for name in np.load(GOLDENS / "janus_sampled.npz") if name.endswith("_uniform")
    ]


@pytest.mark.parametrize("run", _sampled_runs())
def test_sampled_codes_with_given_uniform_numbers_match_the_reference(janus: JanusEngine, run: str) -> None:
    golden = np.load(GOLDENS / "janus_sampled.npz")
    index, weight, temperature = int(run[1]), float(run.split("cfg")[1].split("_")[0]), float(run.split("_T")[1])
    uniform = torch.tensor(golden[f"{run}_uniform"]).double()
    temperatures = torch.full((3,), temperature)
    codes = decode(
        janus,
        [request(PROMPTS[index], cfg_weight=weight, temperature=temperature)] * 3,
        lambda step, logits: sample_codes(logits, uniform[step], temperatures),
    )
    assert codes.tolist() == golden[f"{run}_cdf_tokens"].tolist()


@pytest.mark.parametrize("run", _sampled_runs())
def test_logits_after_the_references_own_sampled_codes_match_the_reference(janus: JanusEngine, run: str) -> None:
    golden = np.load(GOLDENS / "janus_sampled.npz")
    tokens, logits = torch.tensor(golden[f"{run}_race_tokens"]).long(), []
    weight = float(run.split("cfg")[1].split("_")[0])
    requests = [request(PROMPTS[int(run[1])], cfg_weight=weight)] * 3
    decode(janus, requests, lambda step, now: logits.append(now) or tokens[:, step])
    np.testing.assert_allclose(torch.stack(logits[:8]), golden[f"{run}_race_cfg_logits"], atol=2e-3)


def test_the_grid_of_the_published_checkpoints() -> None:
    golden = np.load(GOLDENS / "janus_greedy576.npz")
    (image,) = engine(grid_size=24).render([request(PROMPTS[1])])
    assert image.pixels.shape == (384, 384, 3)
    assert image.codes.tolist() == golden["tokens"].tolist()
    assert_same_image(image.pixels[::32], golden["image_rows_u8"])


def test_the_first_logits_match_the_reference(janus: JanusEngine) -> None:
    golden = np.load(GOLDENS / "janus_parts.npz")["prefill_gen_head_last"]
    np.testing.assert_allclose(torch.stack(janus.predict(PROMPTS[0])).cpu(), golden, atol=1e-4)


@torch.inference_mode()
def test_transformers_generate_gives_the_same_codes_and_images(janus: JanusEngine) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.JanusConfig(**copy.deepcopy(transformers_config()), tie_word_embeddings=False)
    config.vision_config.num_image_tokens = 36
    theirs = transformers.JanusForConditionalGeneration(config).float().eval()
    weights = read_weights(fetched(TINY), dtype=torch.float32, device="cpu")
    theirs.load_state_dict({transformers_name(name): weights[name] for name in weights}, strict=False)
    theirs.generation_config.bos_token_id = janus.tokenizer.bos_id
    theirs.generation_config.pad_token_id = janus.tokenizer.pad_id
    theirs.generation_config.generation_kwargs = {"boi_token_id": janus.tokenizer.begin_of_image_id}

    for prompt in PROMPTS:
        ids = torch.tensor([janus.tokenizer.cond_ids(prompt)])
        try:
            codes = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), generation_mode="image", guidance_scale=5.0, do_sample=False
            )
        except TypeError as error:
            if not transformers.__version__.startswith("5.17."):
                raise
            pytest.skip(f"transformers {transformers.__version__} generates no image: {error}")
        (image,) = janus.render([request(prompt)])
        assert image.codes.tolist() == codes[0].tolist()
        pixels = (theirs.decode_image_tokens(codes)[0].clamp(-1, 1) + 1) * 127.5
        assert_same_image(image.pixels, pixels.numpy().astype(int))


def test_the_embedding_of_every_code_matches_the_reference(janus: JanusEngine) -> None:
    golden = np.load(GOLDENS / "janus_parts.npz")["prepare_gen_img_embeds_all_codes"]
    np.testing.assert_allclose(janus.model.code_embedding_VC.cpu(), golden, atol=1e-5)


# ---- an image is a function of its request alone ---------------------------------------------------------------------


def test_seeds_decide_images_and_weight_1_takes_no_unconditional_row(janus: JanusEngine) -> None:
    first, again, other = janus.render([request(PROMPTS[0], temperature=1.0, seed=seed) for seed in (1, 1, 2)])
    assert first.codes.tolist() == again.codes.tolist() != other.codes.tolist()
    assert janus.tokenize(request(PROMPTS[0], cfg_weight=1.0)).uncond is None
    assert janus.tokenize(request(PROMPTS[0], cfg_weight=2.0)).uncond is not None


def test_unconditional_prompts_are_kept_up_to_a_number_of_tokens(
    janus: JanusEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long ones would take the memory that prompts and images need."""
    requests = [request("a cat" + " and a dog" * num) for num in (0, 3, 1)]
    lengths = [len(janus.tokenize(asked).cond) for asked in requests]
    images = [image.codes.tolist() for asked in requests for image in janus.render([asked])]
    monkeypatch.setattr(janus.loops, "num_kept_tokens", lengths[1] + lengths[2])
    janus._uncond_states.clear()
    for asked, codes in zip(requests, images, strict=True):
        assert janus.render([asked])[0].codes.tolist() == codes
    assert [len(ids) for ids in janus._uncond_states] == lengths[1:]
    monkeypatch.setattr(janus.loops, "num_kept_tokens", 0)
    assert janus.render(requests[:1])[0].codes.tolist() == images[0]
    assert janus._uncond_states == {}


def test_a_negative_prompt_replaces_the_unconditional_one(janus: JanusEngine) -> None:
    plain, steered = janus.render([request(PROMPTS[0]), request(PROMPTS[0], negative_prompt="green")])
    assert plain.codes.tolist() != steered.codes.tolist()
    # Steering a prompt away from itself changes nothing: guided and unguided are the same.
    itself, unguided = janus.render(
        [request(PROMPTS[0], negative_prompt=PROMPTS[0]), request(PROMPTS[0], cfg_weight=1.0)]
    )
    assert itself.codes.tolist() == unguided.codes.tolist()


def test_guidance_has_no_effect_outside_its_interval(janus: JanusEngine) -> None:
    intervals = (None, (0.0, 1.0), (0.99, 1.0), (0.0, 0.5))
    requests = [request(PROMPTS[1], cfg_interval=interval) for interval in intervals]
    images = janus.render([*requests, request(PROMPTS[1], cfg_weight=1.0)])
    guided, always, never, first_half, unguided = (image.codes.tolist() for image in images)
    assert guided == always
    assert never == unguided
    assert first_half[:19] == guided[:19]  # 36 codes: codes 0 to 18 lie in [0, 0.5]
    assert first_half != guided


# ---- what cannot be rendered -----------------------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(janus: JanusEngine) -> None:
    refusal = janus.refusal(request("word " * 2000))
    assert refusal.startswith("prompt must have at most 988 tokens, to leave room for the image's 36, got ")
    assert janus.refusal(request(PROMPTS[0], negative_prompt="word " * 2000)).startswith("negative_prompt must have")
    assert janus.refusal(request("a lone surrogate \ud800")).startswith("a prompt must be valid Unicode")
    assert janus.refusal(request(PROMPTS[0])) is None


def test_nan_in_one_row_rejects_that_image_and_no_other() -> None:
    janus = engine()
    good = janus.render([request(PROMPTS[0])])[0]
    token = janus.tokenizer.cond_ids(PROMPTS[2])[5]
    assert token not in janus.tokenizer.cond_ids(PROMPTS[0])
    janus.model.llama.embedding_VC[token] = torch.nan
    image, rejection = janus.render([request(PROMPTS[0]), request(PROMPTS[2])])
    assert image.codes.tolist() == good.codes.tolist()
    assert rejection == Rejection(image_id=rejection.image_id, reason="the model's logits became NaN or infinite")


def test_nan_in_one_codebook_entry_rejects_the_images_that_use_it_and_no_other() -> None:
    janus = engine()
    good, bad = janus.render([request(PROMPTS[0]), request(PROMPTS[1])])
    code = next(code for code in bad.codes if code not in good.codes)
    with torch.inference_mode():
        janus.vq.quantize.embedding.weight[code] = torch.nan
    image, rejection = janus.render([request(PROMPTS[0]), request(PROMPTS[1])])
    assert image.pixels.tobytes() == good.pixels.tobytes()
    assert rejection == Rejection(image_id="image", reason="the image decoder's numbers became NaN or infinite")


def test_on_a_gpu_images_are_answered_once_they_are_decoded_while_the_next_codes_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    janus, steps = engine(), []

    def choose(requests: list[ImageRequest], prompts: list) -> Iterator[list[str] | None]:
        ids = [entry.image_id for entry in requests]
        for step in range(3):
            steps.append((step, ids))
            yield None
        yield ids

    def decode(batch, images, ids: list[str]) -> SimpleNamespace:
        steps.append(("decode", ids))
        return SimpleNamespace(batch=batch, images=images, ids=ids, is_done=ids != ["c"])

    def finish(part: SimpleNamespace) -> None:
        steps.append(("finish", part.ids))
        part.batch.answers.update(zip(part.images, part.ids, strict=True))

    for name, function in (("choose_codes", choose), ("_decode", decode), ("_finish", finish)):
        monkeypatch.setattr(janus, name, function)
    janus._decode_stream = "a stream"
    batches = [[request("a cat", image_id=name) for name in names] for names in ("ab", "c", "d")]

    assert list(janus.stream(batches)) == [["a", "b"], ["c"], ["d"]]
    first, second, third = ["a", "b"], ["c"], ["d"]
    assert steps[:4] == [*((step, first) for step in range(3)), ("decode", first)]
    assert steps[4:9] == [(0, second), ("finish", first), (1, second), (2, second), ("decode", second)]
    assert steps[9:12] == [(step, third) for step in range(3)]  # the second batch is not decoded yet
    assert steps[12:] == [("finish", second), ("decode", third), ("finish", third)]


def test_batches_whose_texts_are_all_rejected_are_answered(janus: JanusEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [[request("a cat", image_id=name)] for name in "ab"]
    rejections = [[Rejection(image_id=name, reason="no text")] for name in "ab"]
    monkeypatch.setattr(
        janus, "_prompts_of", lambda asked, batch: batch.answers.update({0: rejections.pop(0)[0]}) or {}
    )
    expected = [*rejections]
    assert list(janus.stream(batches)) == expected


def test_a_batch_of_several_guidance_intervals_is_rendered_in_parts_and_answered_in_order(janus: JanusEngine) -> None:
    intervals = [None, (0.0, 0.5), None]
    requests = [request(PROMPTS[0], image_id=str(n), cfg_interval=interval) for n, interval in enumerate(intervals)]
    answers = janus.render(requests)
    assert [answer.image_id for answer in answers] == ["0", "1", "2"]
    assert answers[0].codes.tolist() == answers[2].codes.tolist() != answers[1].codes.tolist()


def test_an_engine_takes_the_tensors_that_its_caller_gives_it() -> None:
    """On a GPU the memory of those that it has merged is then free for keys and values."""
    checkpoint = fetched(TINY)
    weights = read_weights(checkpoint, dtype=torch.float32, device=engine().torch_device)
    assert weights
    JanusEngine(recipe(checkpoint, "float32"), checkpoint, weights=weights)
    assert weights == {}


def test_a_template_with_an_empty_unconditional_prompt_is_a_negative_prompt_without_text() -> None:
    template = dataclasses.replace(PROMPT_FORMATS["janus-pro"], unconditional="empty")
    janus = engine(prompt_template=template)
    asked = request(PROMPTS[0])
    assert janus.tokenize(asked) == engine().tokenize(dataclasses.replace(asked, negative_prompt=" "))
    assert janus.tokenize(dataclasses.replace(asked, negative_prompt="blur")).uncond == engine().tokenizer.cond_ids(
        "blur"
    )
