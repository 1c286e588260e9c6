"""The toy engine keeps the promises of every engine: a function of the request alone, one answer each, in order."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.engines import load_engine
from actors.request import ImageRequest, Rejection
from actors.toy import ToyEngine
from tests.support.toy_job import recipe

ROOT = Path(__file__).parents[2]


def request(prompt: str = "a red square", **changes) -> ImageRequest:
    fields = {"image_id": "x_0", "prompt_id": "x", "image_index": 0, "seed": 1, "cfg_weight": 5.0, "temperature": 1.0}
    return ImageRequest(prompt=prompt, **{**fields, **changes})


@pytest.fixture
def engine() -> ToyEngine:
    return load_engine(recipe())


def test_the_family_table_leads_to_the_toy_engine(engine: ToyEngine) -> None:
    assert isinstance(engine, ToyEngine)


def test_an_image_is_a_function_of_its_request_alone(engine: ToyEngine) -> None:
    requests = [request(image_id=f"{n}", seed=n) for n in range(7)]
    together = engine.render(requests)
    alone = [engine.render([one])[0] for one in reversed(requests)][::-1]

    assert [image.image_id for image in together] == [str(n) for n in range(7)]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.codes, b.codes)


@pytest.mark.parametrize(
    "change", [{"prompt": "b"}, {"seed": 2}, {"cfg_weight": 7.0}, {"temperature": 0.0}, {"negative_prompt": "blur"}]
)
def test_everything_that_decides_a_pixel_changes_it(engine: ToyEngine, change: dict) -> None:
    first, other = engine.render([request(), dataclasses.replace(request(), **change)])

    assert not np.array_equal(first.codes, other.codes)


@pytest.mark.parametrize("change", [{"image_id": "y_3"}, {"prompt_id": "y"}, {"image_index": 3}])
def test_names_do_not_affect_pixels(engine: ToyEngine, change: dict) -> None:
    first, other = engine.render([request(), dataclasses.replace(request(), **change)])

    assert np.array_equal(first.pixels, other.pixels)


def test_images_are_pixels_with_codes(engine: ToyEngine) -> None:
    (image,) = engine.render([request()])

    assert (image.pixels.shape, image.pixels.dtype) == ((64, 64, 3), np.uint8)
    assert (image.codes.shape, image.codes.dtype) == ((16,), np.int32)
    assert 0 <= image.codes.min() <= image.codes.max() < 16384


def test_a_prompt_that_asks_for_nan_is_rejected_and_its_neighbors_are_not(engine: ToyEngine) -> None:
    first, second, third = engine.render([request(), request("toy:nan", image_id="bad"), request()])

    assert second == Rejection(image_id="bad", reason="the model's numbers became NaN")
    assert np.array_equal(first.pixels, third.pixels)


def test_a_prompt_that_asks_for_a_bug_gets_one(engine: ToyEngine) -> None:
    with pytest.raises(RuntimeError, match=r"a bug met image x_0"):
        engine.render([request("toy:bug")])


def test_a_prompt_longer_than_its_context_is_refused(engine: ToyEngine) -> None:
    assert engine.refusal(request("x" * 2000)) is None
    assert engine.refusal(request("x" * 2001)) == "prompt of 2001 characters is longer than the toy engine's 2000"


def test_it_needs_no_torch() -> None:
    code = "import sys, actors.toy, actors.engines, actors.batcher; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout == "False\n"


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_request_takes_a_seed_of_64_bits_only(seed: int) -> None:
    with pytest.raises(
        ValueError, match=rf"seed must fit in 64 unsigned bits \(0 to 18446744073709551615\), got {seed}"
    ):
        request(seed=seed)
