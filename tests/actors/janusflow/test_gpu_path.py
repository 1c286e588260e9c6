"""The engine's GPU path, on a CPU in Triton's interpreter: the CPU path's images, in any batch.

Their bits may depend on the batch here, because torch's own products and convolutions do on some CPUs. Bytes are
compared on GPUs, in tests/actors/test_gpu_engines.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from actors.janusflow.decoder import gpu_decoder
from actors.janusflow.engine import JanusFlowEngine
from actors.janusflow.network import build_network, read_weights
from actors.llama import packed
from actors.request import ImageRequest, RenderedImage
from tests.support.checkpoints import fetched
from tests.support.flow_engine import TINY, engine, request
from tests.support.triton import DEVICE, needs_triton

LATENT_SIZE = 4  # five tokens per row: the interpreter takes milliseconds for each
STEPS = 2


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packed, "CHUNK", 64)
    with torch.inference_mode():
        yield


def gpu_engine() -> JanusFlowEngine:
    """The tiny checkpoint as a GPU runs it, in calls that are not filled up."""
    flow, checkpoint = engine(latent_size=LATENT_SIZE), fetched(TINY)
    weights = read_weights(checkpoint, dtype=torch.float32, device=DEVICE)
    flow.network = build_network(weights, checkpoint.shape, LATENT_SIZE, is_packed=True)
    flow.image_decoder = gpu_decoder(flow.vae, (4, LATENT_SIZE, LATENT_SIZE), graphs=None)
    (flow.bos_state,) = flow.network.read_prompts([[flow.tokenizer.bos_id]])
    return flow


def requests() -> list[ImageRequest]:
    fields = {"num_inference_steps": STEPS}
    return [
        request("a cat", image_id="a", **fields),
        request("a red cube on a blue sphere", image_id="b", seed=1, negative_prompt="blue", **fields),
        request("one", image_id="c", seed=2, cfg_weight=1.0, num_inference_steps=1),
    ]


@needs_triton
def test_images_are_those_of_the_cpu_in_any_batch() -> None:
    flow = gpu_engine()
    together = flow.render(requests())
    for image, expected in zip(together, engine(latent_size=LATENT_SIZE).render(requests()), strict=True):
        assert_alike(image, expected)
    parts = [requests()[2:], requests()[1::-1]]
    for image in [image for answers in flow.stream(parts) for image in answers]:
        assert_alike(image, together["abc".index(image.image_id)])


def assert_alike(image: RenderedImage, expected: RenderedImage) -> None:
    assert image.image_id == expected.image_id
    np.testing.assert_allclose(image.latents, expected.latents, atol=1e-4)
    assert abs(image.pixels.astype(int) - expected.pixels.astype(int)).max() <= 1


def test_on_a_gpu_the_images_of_a_batch_are_decoded_while_the_next_one_is_integrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow, steps = engine(latent_size=LATENT_SIZE), []
    monkeypatch.setattr(flow, "_render", lambda batch: steps.append(("render", batch)) or batch)
    monkeypatch.setattr(flow, "_answers", lambda batch: steps.append(("answers", batch)) or batch)
    flow._decode_stream = "a stream"

    assert list(flow.stream("ab")) == ["a", "b"]
    assert steps == [("render", "a"), ("render", "b"), ("answers", "a"), ("answers", "b")]
