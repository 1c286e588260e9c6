"""The engine as a GPU runs it, its graphs replayed: the CPU's images in any batch, and with memory that runs out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from actors.batcher import Batcher
from actors.janusflow import batching, packed
from actors.request import ImageRequest, RenderedImage
from tests.support import fake_gpu, flow_engine
from tests.support.fake_cuda import FakeCuda
from tests.support.flow_engine import assert_same_bytes
from tests.support.hardware import runs_engines_on_a_cpu

pytestmark = runs_engines_on_a_cpu

LATENT_SIZE = 4  # five tokens per row
PROMPTS = ("a cat", "a red cube on a blue sphere", "one", "a green dog under a tall tree and so on and so on")


def mixed_requests(num: int) -> list[ImageRequest]:
    """Prompts of several lengths, weights, numbers of steps, solvers, intervals and negative prompts."""
    return [
        flow_engine.request(
            PROMPTS[n % 4],
            image_id=str(n),
            seed=n,
            cfg_weight=(2.0, 1.0, 5.0)[n % 3],
            num_inference_steps=(2, 1)[n % 2],
            solver="heun" if n > 9 else None,
            negative_prompt=(None, "blue")[n // 2 % 2],
            cfg_interval=(0.0, 0.3) if n % 5 == 4 else None,
        )
        for n in range(num)
    ]


REQUESTS = mixed_requests(12)


@pytest.fixture(scope="module")
def expected() -> dict[str, RenderedImage]:
    """The images of the CPU."""
    return {image.image_id: image for image in flow_engine.engine(latent_size=LATENT_SIZE).render(REQUESTS)}


@pytest.fixture
def cuda(expected: dict[str, RenderedImage], monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Takes the CPU's place once that has rendered; 12 images need more calls for a step than there are buffers."""
    monkeypatch.setattr(batching, "ROWS_PER_CALL", 4)
    return fake_gpu.install(monkeypatch)


def assert_near(image: RenderedImage, expected: RenderedImage) -> None:
    np.testing.assert_allclose(image.latents, expected.latents, atol=1e-4)
    assert abs(image.pixels.astype(int) - expected.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("sizes", [[1], [7], [12], [1, 7, 4]])
def test_images_are_those_of_the_cpu_in_batches_of_any_size(
    sizes: list[int], cuda: FakeCuda, expected: dict[str, RenderedImage]
) -> None:
    engine, left = fake_gpu.janusflow(latent_size=LATENT_SIZE), iter(REQUESTS)
    batches = [list(itertools.islice(left, size)) for size in sizes]
    for batch, answers in zip(batches, engine.stream(batches), strict=True):
        for image, one in zip(answers, batch, strict=True):
            assert_near(image, expected[one.image_id])


def test_replayed_graphs_give_the_bytes_of_calls(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where prompts need a larger buffer than those before, whose graphs are freed."""
    monkeypatch.setattr(packed, "PROMPT_SLOTS", 16)
    engine = fake_gpu.janusflow(latent_size=LATENT_SIZE)
    batches = [REQUESTS[:1], REQUESTS[1:8], REQUESTS[8:]]
    replayed = [image for _ in "ab" for answers in engine.stream(batches) for image in answers]
    assert {len(pool) for pool in cuda.graphs_of_pool.values()} == {0, 1, packed.KEPT_CALLS}
    engine.network.packed.graphs = engine.image_decoder.graphs = None
    for image, found in zip([*engine.render(REQUESTS)] * 2, replayed, strict=True):
        assert_same_bytes(found, image)


@pytest.mark.parametrize("launch", [1, 9, 17, 25, 33, 41, 50, 60])
def test_where_memory_runs_out_smaller_batches_give_the_same_images(
    launch: int, cuda: FakeCuda, expected: dict[str, RenderedImage]
) -> None:
    engine = fake_gpu.janusflow(latent_size=LATENT_SIZE)
    batcher = Batcher(engine, 4)
    cuda.launches_left = launch
    answers = [image for finished in batcher.render(REQUESTS) for _, image in finished]
    assert cuda.launches_left < 0, "memory did not run out"
    assert batcher.batch_size == 2
    assert len(answers) == len(REQUESTS)
    for image in answers:
        assert_near(image, expected[image.image_id])
