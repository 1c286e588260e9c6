"""The JanusFlow engine renders the same bytes in any batch, at any position, with any number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from actors.janusflow.batching import ROWS_PER_CALL
from actors.request import ImageRequest
from tests.support.flow_engine import PROMPTS, assert_same_bytes, engine, request

pytestmark = pytest.mark.slow  # together they take more than a minute


@pytest.fixture
def num_threads_kept() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def mixed_requests() -> list[ImageRequest]:
    """Prompts, seeds, weights, step counts and negative prompts that all differ; some prompts come twice."""
    chosen = random.Random(3)
    return [
        request(
            chosen.choice([*(prompt["prompt"] for prompt in PROMPTS), "x", "two dogs " * 20]),
            image_id=str(index),
            seed=index,
            cfg_weight=chosen.choice([1.0, 2.0, 2.0, 7.5]),
            num_inference_steps=chosen.choice([1, 2, 3, 5]),
            negative_prompt=chosen.choice([None, None, "", "a blurry photo"]),
            solver=chosen.choice(["euler", "euler", "heun", "midpoint"]),
            cfg_interval=chosen.choice([None, None, (0.2, 0.7)]),
        )
        for index in range(12)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
    ],
    ids=["float32", "bfloat16"],
)
@pytest.mark.usefixtures("num_threads_kept")
def test_an_image_has_the_same_bytes_in_any_batch_and_with_any_number_of_threads(settings: dict) -> None:
    flow = engine(**settings)
    requests = mixed_requests()
    torch.set_num_threads(1)
    alone = {entry.image_id: flow.render([entry])[0] for entry in requests}
    assert len({image.pixels.tobytes() for image in alone.values()}) == len(requests)

    for num_threads, batch_sizes in ((1, [12]), (2, [5, 7]), (1, [2, 1, 9]), (4, [3])):
        torch.set_num_threads(num_threads)
        left = random.Random(len(batch_sizes)).sample(requests, sum(batch_sizes))
        for batch_size in batch_sizes:
            batch, left = left[:batch_size], left[batch_size:]
            for image in flow.render(batch):
                assert_same_bytes(image, alone[image.image_id])


def test_filling_up_calls_changes_no_bits() -> None:
    """A GPU needs this because bits depend on the number of rows there; on a CPU they do not, so it can be tested."""
    flow, filling = engine(), engine()
    filling.fills_up_calls = True
    num_rows = []
    filling.network.register_forward_pre_hook(lambda module, args: num_rows.append(len(args[0])))
    requests = mixed_requests()

    for image, expected in zip(filling.render(requests), flow.render(requests), strict=True):
        assert_same_bytes(image, expected)
    assert set(num_rows) == {ROWS_PER_CALL}
