"""The JanusFlow engine against the reference implementation's numbers, and against itself in other batches."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.errors import InputError
from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.sampler import demo_grid, even_grid
from actors.noise import normal_noise
from actors.request import ImageRequest, Rejection, RenderedImage
from tests.support.flow_engine import PROMPTS, TINY, assert_same_bytes, engine, golden, request

TEXTS = [prompt["prompt"] for prompt in PROMPTS]
WEIGHTS = (1, 2, 4)


@pytest.fixture(scope="module")
def flow() -> JanusFlowEngine:
    return engine()


@pytest.fixture(scope="module")
def flow_golden() -> dict[str, np.ndarray]:
    return golden("flow.npz")


def integrate(flow: JanusFlowEngine, z0: np.ndarray, requests: list[ImageRequest]) -> np.ndarray:
    return flow.integrate(torch.from_numpy(z0), requests, flow.embed_prompts(requests)).cpu().numpy()


def assert_same_image(pixels: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


# ---- the reference's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [5, 30])
def test_latents_and_images_match_the_reference_for_all_prompts_and_weights_in_one_batch(
    flow: JanusFlowEngine, flow_golden: dict[str, np.ndarray], num_steps: int
) -> None:
    cases = [(prompt, weight, image) for prompt in range(3) for weight in WEIGHTS for image in range(2)]
    requests = [request(TEXTS[p], cfg_weight=float(weight), num_inference_steps=num_steps) for p, weight, _ in cases]
    z0 = np.stack([flow_golden[f"p{p}_z0"][image] for p, _, image in cases])

    z_BCHW = integrate(flow, z0, requests)
    pixels = flow.decode_latents(torch.from_numpy(z_BCHW)).pixels.cpu().numpy()

    for row, (p, weight, image) in enumerate(cases):
        name = f"p{p}_cfg{weight}_steps{num_steps}"
        np.testing.assert_allclose(z_BCHW[row], flow_golden[f"{name}_zT"][image], rtol=0, atol=2e-5, err_msg=name)
        if image == 0:
            assert_same_image(pixels[row], flow_golden[f"{name}_image0"])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("prompt", range(3))
def test_velocities_of_the_first_steps_match_the_reference(
    flow: JanusFlowEngine, flow_golden: dict[str, np.ndarray], prompt: int, weight: int
) -> None:
    name = f"p{prompt}_cfg{weight}_steps30"
    requests = [request(TEXTS[prompt], cfg_weight=float(weight))] * 2
    velocity = flow.guided_velocity(requests, flow.embed_prompts(requests))
    z_BCHW = torch.from_numpy(flow_golden[f"p{prompt}_z0"])

    for step, expected in enumerate(flow_golden[f"{name}_v"]):
        v_BCHW = velocity(z_BCHW, torch.full((2,), step / 30, dtype=torch.float64)).cpu()
        np.testing.assert_allclose(v_BCHW.numpy(), expected, rtol=0, atol=5e-5)
        z_BCHW = z_BCHW + v_BCHW / 30


@pytest.mark.parametrize("prompt", range(3))
def test_conditional_and_unconditional_velocities_match_the_reference(
    flow: JanusFlowEngine, flow_golden: dict[str, np.ndarray], prompt: int
) -> None:
    (prompts,) = flow.embed_prompts([request(TEXTS[prompt])])
    z_RCHW = torch.from_numpy(np.concatenate([flow_golden[f"p{prompt}_z0"]] * 2))

    v_RCHW = flow.network_velocity(
        z_RCHW, torch.zeros(4, dtype=torch.float64), [prompts.cond] * 2 + [prompts.uncond] * 2
    )

    expected = flow_golden[f"p{prompt}_cfg2_steps5_v_cond_uncond_step0"]
    np.testing.assert_allclose(v_RCHW.cpu().numpy(), expected, rtol=0, atol=1e-5)


def test_every_step_of_a_render_matches_the_reference(
    flow: JanusFlowEngine, flow_golden: dict[str, np.ndarray]
) -> None:
    trajectory = flow_golden["p0_cfg2_steps30_z_trajectory0"]
    velocity = flow.guided_velocity([request(TEXTS[0])], flow.embed_prompts([request(TEXTS[0])]))

    for step in range(29):
        t_B = torch.tensor([step / 30], dtype=torch.float64)
        z_after = trajectory[step] + velocity(torch.from_numpy(trajectory[step : step + 1]), t_B).cpu().numpy()[0] / 30
        np.testing.assert_allclose(z_after, trajectory[step + 1], rtol=0, atol=5e-6)


@pytest.mark.parametrize("num_steps", [5, 30])
def test_the_demos_time_grid_gives_the_demos_latents(
    flow: JanusFlowEngine, flow_golden: dict[str, np.ndarray], num_steps: int
) -> None:
    requests = [request(TEXTS[1], num_inference_steps=num_steps, match_reference_demo=True)] * 2

    z_BCHW = integrate(flow, flow_golden["p1_z0"], requests)

    np.testing.assert_allclose(z_BCHW, flow_golden[f"p1_cfg2_steps{num_steps}_bf16dt_zT"], rtol=0, atol=2e-5)


def test_the_demos_time_grid_is_in_bfloat16() -> None:
    grid = demo_grid(30)

    assert grid.dt == 0.033447265625
    assert [1000 * t for t in grid.times[:5]] == pytest.approx([0.0, 33.25, 66.5, 100.0, 133.0], rel=1e-12)
    assert even_grid(30).times[1] * 1000 == pytest.approx(100 / 3)


def test_the_published_latent_size_gives_the_references_image() -> None:
    full = golden("flow_full48.npz")
    flow = engine(latent_size=48)
    requests = [request(TEXTS[1], num_inference_steps=5)] * 2

    velocity = flow.guided_velocity(requests, flow.embed_prompts(requests))
    v_BCHW = velocity(torch.from_numpy(full["z0"]), torch.zeros(2, dtype=torch.float64))
    z_BCHW = integrate(flow, full["z0"], requests)

    np.testing.assert_allclose(v_BCHW.cpu().numpy(), full["v_step0"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(z_BCHW, full["zT"], rtol=0, atol=2e-5)
    pixels = flow.decode_latents(torch.from_numpy(z_BCHW[:1])).pixels.cpu().numpy()
    assert_same_image(pixels[0, ::48], full["image_rows_u8"])


# ---- what an image is a function of ----------------------------------------------------------------------------------


def test_an_image_is_a_function_of_each_of_its_settings(flow: JanusFlowEngine) -> None:
    variants = [
        request(num_inference_steps=3),
        request("a green cube", num_inference_steps=3),
        request(num_inference_steps=3, seed=1),
        request(num_inference_steps=3, cfg_weight=3.0),
        request(num_inference_steps=4),
        request(num_inference_steps=3, negative_prompt="a green cube"),
        request(num_inference_steps=3, negative_prompt=""),
    ]

    images = flow.render(variants)

    assert len({image.latents.tobytes() for image in images}) == len(variants)


def test_an_image_begins_with_the_noise_of_its_seed(flow: JanusFlowEngine) -> None:
    z_BCHW = flow.latent_noise([request(seed=5), request(seed=2**64 - 1)]).cpu()

    assert np.array_equal(z_BCHW[0], normal_noise(5, (4, 12, 12)))
    assert np.array_equal(z_BCHW[1], normal_noise(2**64 - 1, (4, 12, 12)))


def test_pixels_are_decoded_from_the_latents_of_the_answer(flow: JanusFlowEngine) -> None:
    (image,) = flow.render([request(num_inference_steps=2)])

    assert image.latents.dtype == np.float32
    assert image.latents.shape == (4, 12, 12)
    pixels = flow.decode_latents(torch.from_numpy(image.latents[None])).pixels.cpu().numpy()
    assert np.array_equal(pixels[0], image.pixels)


def test_latents_stay_float32_in_a_bfloat16_model(flow_golden: dict[str, np.ndarray]) -> None:
    flow = engine(dtype="bfloat16")

    z_BCHW = integrate(flow, flow_golden["p1_z0"], [request(TEXTS[1])] * 2)

    assert z_BCHW.dtype == np.float32
    # Rounded velocities, not rounded sums: 30 steps in bfloat16 would be off by 0.15.
    assert np.abs(z_BCHW - flow_golden["p1_cfg2_steps30_zT"]).max() < 0.05


# ---- guidance --------------------------------------------------------------------------------------------------------


def rows_per_step(**fields: object) -> list[int]:
    flow, num_rows = engine(), []
    flow.fills_up_calls = False  # which a GPU does: every call has the same number of rows there
    flow.network.register_forward_pre_hook(lambda module, args: num_rows.append(len(args[0])))
    flow.render([request(**fields)])
    return num_rows


def test_an_unguided_image_has_no_unconditional_row() -> None:
    assert rows_per_step(cfg_weight=1.0, num_inference_steps=3) == [1, 1, 1]
    assert rows_per_step(cfg_weight=2.0, num_inference_steps=3) == [2, 2, 2]


@pytest.mark.parametrize(
    ("cfg_interval", "num_rows"),
    [((0.0, 1.0), [2, 2, 2, 2]), ((0.25, 0.5), [1, 2, 2, 1]), ((0.3, 0.45), [1, 1, 1, 1]), ((0.6, 1.0), [1, 1, 1, 2])],
)
def test_outside_the_interval_there_is_no_unconditional_row(
    cfg_interval: tuple[float, float], num_rows: list[int]
) -> None:
    assert rows_per_step(cfg_interval=cfg_interval, num_inference_steps=4) == num_rows


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
def test_the_whole_interval_is_the_same_as_none(flow: JanusFlowEngine, solver: str) -> None:
    whole, none = (
        [
            request(solver=solver, cfg_interval=interval, num_inference_steps=3),
            request(solver=solver, cfg_interval=interval, num_inference_steps=7, seed=1),
        ]
        for interval in ((0.0, 1.0), None)
    )

    for image, expected in zip(flow.render(whole), flow.render(none), strict=True):
        assert_same_bytes(image, expected)


def test_an_interval_that_holds_no_step_leaves_the_image_unguided(flow: JanusFlowEngine) -> None:
    (unguided,) = flow.render([request(num_inference_steps=4, cfg_weight=1.0)])
    (outside,) = flow.render([request(cfg_interval=(0.3, 0.45), num_inference_steps=4)])

    assert_same_bytes(outside, unguided)


def test_the_unconditional_row_treats_a_negative_prompt_like_a_prompt(
    flow: JanusFlowEngine,
) -> None:
    z_BCHW, t_B = flow.latent_noise([request()]), torch.tensor([0.5], dtype=torch.float64)

    def velocity(**fields: object) -> torch.Tensor:
        return flow.guided_velocity([request(**fields)], flow.embed_prompts([request(**fields)]))(z_BCHW, t_B)

    cond, negative = (velocity(prompt=text, cfg_weight=1.0) for text in (TEXTS[0], TEXTS[1]))
    guided = velocity(prompt=TEXTS[0], negative_prompt=TEXTS[1], cfg_weight=3.0)

    torch.testing.assert_close(guided, negative + 3 * (cond - negative))


def test_a_prompt_as_its_own_negative_cancels_guidance(flow: JanusFlowEngine) -> None:
    guided, unguided = flow.render(
        [
            request(negative_prompt="a red cube", cfg_weight=5.0, num_inference_steps=3),
            request(cfg_weight=1.0, num_inference_steps=3),
        ]
    )

    np.testing.assert_allclose(guided.latents, unguided.latents, rtol=0, atol=1e-5)


# ---- solvers ---------------------------------------------------------------------------------------------------------


def test_heun_and_midpoint_evaluate_the_guided_velocity_at_their_own_times(flow: JanusFlowEngine) -> None:
    settings = {"num_inference_steps": 1, "cfg_weight": 3.0, "cfg_interval": (0.0, 0.9)}
    entry = request(solver="heun", **settings)
    z = flow.latent_noise([entry])
    at = flow.guided_velocity([entry], flow.embed_prompts([entry]))
    begin, middle, end = (torch.tensor([t], dtype=torch.float64) for t in (0.0, 0.5, 1.0))
    v = at(z, begin)

    heun, midpoint = flow.render([entry, request(solver="midpoint", **settings)])

    torch.testing.assert_close(torch.from_numpy(heun.latents), (z + (v + at(z + v, end)) / 2)[0].cpu())
    torch.testing.assert_close(torch.from_numpy(midpoint.latents), (z + at(z + v / 2, middle))[0].cpu())
    always = [dataclasses.replace(entry, cfg_interval=None)]
    assert not torch.allclose(at(z + v, end), flow.guided_velocity(always, flow.embed_prompts(always))(z + v, end))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused(flow: JanusFlowEngine) -> None:
    assert flow.refusal(request("x" * 100)) is None
    reason = "must have at most 987 tokens, to leave room for the image's 37, got"
    assert flow.refusal(request("1" * 2000)).startswith(f"prompt {reason}")
    assert flow.refusal(request(negative_prompt="1" * 2000)).startswith(f"negative_prompt {reason}")


def test_the_longest_prompt_renders(flow: JanusFlowEngine) -> None:
    num_tokens_of_template = len(flow.tokenizer.flow_cond_ids(""))
    longest = request("1" * (987 - num_tokens_of_template), num_inference_steps=1)

    assert flow.refusal(longest) is None
    assert flow.refusal(request("1" * (988 - num_tokens_of_template))) is not None
    assert isinstance(flow.render([longest])[0], RenderedImage)


@pytest.mark.parametrize("num_steps", [0, -1, None])
def test_an_image_without_steps_is_refused(flow: JanusFlowEngine, num_steps: int | None) -> None:
    assert flow.refusal(request(num_inference_steps=num_steps)) == (
        f"num_inference_steps must be at least 1, got {num_steps}"
    )


def test_text_that_is_not_unicode_is_refused(flow: JanusFlowEngine) -> None:
    assert "lone surrogate" in flow.refusal(request("\ud800"))


def test_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="SDXL VAE"):
        engine(dtype="float16")


def test_the_demos_time_grid_goes_with_euler_alone(flow: JanusFlowEngine) -> None:
    refusal = flow.refusal(request(match_reference_demo=True, solver="heun"))
    assert refusal == "match_reference_demo needs the demo's solver, euler; got heun"
    assert flow.refusal(request(match_reference_demo=True, solver="euler")) is None


def test_an_image_whose_numbers_become_nan_is_rejected_and_its_neighbors_are_not(
    flow: JanusFlowEngine, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "broken", copy_function=shutil.copyfile))
    weights = load_file(folder / "model.safetensors")
    (token_id,) = set(flow.tokenizer.flow_cond_ids("!")) - set(flow.tokenizer.flow_cond_ids(""))
    weights["language_model.model.embed_tokens.weight"][token_id] = torch.nan
    save_file(weights, folder / "model.safetensors")
    requests = [
        request(image_id="before", num_inference_steps=3),
        request("!", image_id="broken", num_inference_steps=3),
        request(negative_prompt="!", image_id="broken too", num_inference_steps=2),
        request(image_id="after", seed=1, num_inference_steps=3),
    ]

    before, broken, broken_too, after = engine(folder).render(requests)

    for rejection, image_id in ((broken, "broken"), (broken_too, "broken too")):
        reason = "the latents became NaN or infinite while integrating"
        assert rejection == Rejection(image_id=image_id, reason=reason)
    for image, expected in zip((before, after), flow.render([requests[0], requests[3]]), strict=True):
        assert_same_bytes(image, expected)


def test_no_requests_get_no_answers(flow: JanusFlowEngine) -> None:
    assert flow.render([]) == []


def test_the_first_two_predictions_are_conditional_and_unconditional(
    flow: JanusFlowEngine,
) -> None:
    cond, uncond = flow.predict(TEXTS[0])

    z_BCHW, t_B = flow.latent_noise([request()]), torch.zeros(1, dtype=torch.float64)
    requests = [request(TEXTS[0], cfg_weight=1.0)], [request(TEXTS[0], cfg_weight=0.0)]
    expected = [flow.guided_velocity(one, flow.embed_prompts(one))(z_BCHW, t_B)[0] for one in requests]
    torch.testing.assert_close([cond, uncond], expected)
