"""The Janus engine renders the same bytes in any batch, at any position, with any number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actors.janus.decode_loop import DecodeLoop
from actors.janus.engine import JanusEngine
from actors.janus.sampler import CodeSampler
from actors.request import ImageRequest, Rejection
from tests.support.hardware import has_measured_bfloat16
from tests.support.janus_engine import PROMPTS, decode, engine, mixed_requests, request, write_random_checkpoint
from tests.support.triton import needs_gpu

pytestmark = pytest.mark.slow  # together they take more than a minute

NUM_REQUESTS = 12
# Wide enough that the work on one batch is shared among threads.
WIDE = {"hidden_size": 256, "num_layers": 2, "num_heads": 8, "intermediate_size": 1392}


@pytest.fixture(autouse=True)
def num_threads_kept() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def logits_and_codes(janus: JanusEngine, requests: list[ImageRequest]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each image the guided logits of every step [N, V], whose bits say more than the codes [N] chosen by them."""
    sampler, logits = CodeSampler(len(requests), janus.num_codes, torch.device("cpu")), []
    sampler.load(requests)

    def choose(step: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        logits.append(logits_BV.clone())
        return sampler(step, logits_BV)

    codes_BN = decode(janus, requests, choose)
    logits_BNV = torch.stack(logits, dim=1)
    return {request.image_id: (logits_BNV[b], codes_BN[b]) for b, request in enumerate(requests)}


@pytest.mark.parametrize(
    ("num_kv_heads", "dtype"),
    [(8, "float32"), pytest.param(8, "bfloat16", marks=has_measured_bfloat16), (2, "float32")],
)
def test_logits_and_codes_of_a_wider_model_do_not_depend_on_the_batch(
    num_kv_heads: int, dtype: str, tmp_path: Path
) -> None:
    folder = write_random_checkpoint(tmp_path, num_kv_heads=num_kv_heads, **WIDE)
    janus, requests, chance = engine(folder, dtype=dtype), mixed_requests(NUM_REQUESTS), random.Random(2)
    torch.set_num_threads(1)
    alone = {key: value for entry in requests for key, value in logits_and_codes(janus, [entry]).items()}
    assert len({tuple(codes.tolist()) for _, codes in alone.values()}) == NUM_REQUESTS

    for num_threads, batch_size in ((2, 3), (1, 5), (3, 12)):
        torch.set_num_threads(num_threads)
        order = chance.sample(requests, NUM_REQUESTS)
        for start in range(0, NUM_REQUESTS, batch_size):
            for key, (logits, codes) in logits_and_codes(janus, order[start : start + batch_size]).items():
                assert torch.equal(logits, alone[key][0]), f"{num_threads} threads, batch of {batch_size}"
                assert torch.equal(codes, alone[key][1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_images_bytes_do_not_depend_on_its_batch(dtype: str) -> None:
    janus, requests, chance = engine(dtype=dtype), mixed_requests(NUM_REQUESTS), random.Random(1)
    torch.set_num_threads(1)
    alone = {entry.image_id: janus.render([entry])[0] for entry in requests}

    for num_threads, batch_size in ((1, 2), (2, 3), (1, 5), (3, 12)):
        torch.set_num_threads(num_threads)
        order = chance.sample(requests, NUM_REQUESTS)
        for start in range(0, NUM_REQUESTS, batch_size):
            for image in janus.render(order[start : start + batch_size]):
                assert image.codes.tolist() == alone[image.image_id].codes.tolist()
                assert image.pixels.tobytes() == alone[image.image_id].pixels.tobytes()


def test_running_a_step_twice_has_the_effect_of_running_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What capturing a step as a CUDA graph needs, which runs it before the first replay."""
    janus, requests = engine(), mixed_requests(5)
    expected = [image.codes.tolist() for image in janus.render(requests)]
    monkeypatch.setattr(DecodeLoop, "_launch", lambda loop, key, work: (work(), work()))
    assert [image.codes.tolist() for image in janus.render(requests)] == expected


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_replayed_cuda_graphs_give_the_bytes_of_calls(dtype: str) -> None:
    janus, requests = engine(dtype=dtype), mixed_requests(NUM_REQUESTS)
    replayed = [janus.render(requests) for _ in "ab"]
    janus.loops._loops.clear()
    janus.loops._graphs = janus.decode_pixels.graphs = None
    for images in zip(janus.render(requests), *replayed, strict=True):
        assert len({image.codes.tobytes() for image in images}) == 1
        assert len({image.pixels.tobytes() for image in images}) == 1


def test_a_nan_does_not_affect_the_next_batch() -> None:
    janus, good, bad = engine(), request(PROMPTS[0]), request(PROMPTS[2])
    (expected,) = janus.render([good])
    embedding = janus.model.llama.embedding_VC
    token, kept = janus.tokenizer.cond_ids(PROMPTS[2])[5], embedding.clone()
    embedding[token] = torch.nan
    assert isinstance(janus.render([bad])[0], Rejection)
    embedding.copy_(kept)
    assert janus.render([good])[0].codes.tolist() == expected.codes.tolist()
    assert janus.render([bad])[0].codes.tolist() != expected.codes.tolist()
