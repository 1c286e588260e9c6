"""The engine as a GPU runs it, its graphs replayed: the CPU's codes in any batch, and with memory that runs out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import pytest
import torch

from actors.batcher import Batcher
from actors.guidance import is_guided
from actors.janus.batching import bytes_per_page
from actors.janus.engine import JanusEngine
from actors.janus.network import TEXT_HEAD, read_weights
from actors.janus.reasoning import Reasoner, Reasoning
from actors.prompt.protocol import Protocol
from actors.prompt.template import PromptTemplate
from actors.request import Rejection, RenderedImage
from tests.support import fake_gpu, janus_engine
from tests.support.checkpoints import TINY, fetched
from tests.support.fake_cuda import FakeCuda
from tests.support.hardware import runs_engines_on_a_cpu
from tests.support.janus_engine import mixed_requests, request

pytestmark = runs_engines_on_a_cpu

GRID_SIZE = 2  # four codes
PAGES_OF_ROW = 3  # that a prompt of a typical length and its codes take
REQUESTS = [
    dataclasses.replace(one, cfg_interval=(0.0, 0.3) if n % 4 == 3 else None)
    for n, one in enumerate(mixed_requests(12))
]
PAGE_BYTES = bytes_per_page(fetched(TINY).shape.llama, torch.float32)


PROTOCOL = Protocol(
    question=PromptTemplate(prefix="", suffix=""), max_tokens=12, top_k=None, ends_with_sentence=True, source=""
)


def text_head() -> torch.Tensor:
    return read_weights(fetched(TINY), dtype=torch.float32, device="cpu", with_text_head=True)[TEXT_HEAD]


def texts(engine: JanusEngine) -> list[Reasoning | Rejection]:
    """What the engine's model writes before each image."""
    writer = Reasoner(PROTOCOL, engine.tokenizer, engine.model.llama, text_head(), engine.loops)
    with torch.inference_mode():
        first, again = writer.write(REQUESTS), writer.write(REQUESTS)
    assert first == again
    return first


@pytest.fixture(scope="module")
def expected_texts() -> list[Reasoning | Rejection]:
    """Those of the CPU."""
    return texts(janus_engine.engine(grid_size=GRID_SIZE))


@pytest.fixture(scope="module")
def expected() -> dict[str, list[int]]:
    """The codes of every image on the CPU."""
    return codes_of(janus_engine.engine(grid_size=GRID_SIZE).render(REQUESTS))


@pytest.fixture
def cuda(expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Takes the CPU's place once that has rendered."""
    return fake_gpu.install(monkeypatch)


def gpu_engine(cuda: FakeCuda, *, num_rows: int, kv_cache: str | None = None) -> JanusEngine:
    """With memory for this many rows of a typical length, or for more of them in fp8."""
    cuda.free_bytes = num_rows * PAGES_OF_ROW * PAGE_BYTES * 4 // 3
    engine = fake_gpu.janus(grid_size=GRID_SIZE, kv_cache=kv_cache)
    assert kv_cache or engine.loops.max_rows == num_rows
    return engine


def codes_of(answers: Iterable[RenderedImage | Rejection]) -> dict[str, list[int]]:
    return {image.image_id: image.codes.tolist() for image in answers}


@pytest.mark.parametrize("sizes", [[1], [7], [12], [1, 7, 0, 4], [5, 5, 2]])
def test_codes_are_those_of_the_cpu_in_batches_of_any_size(
    sizes: list[int], cuda: FakeCuda, expected: dict[str, list[int]]
) -> None:
    """Batches of more rows than there are come in parts."""
    engine, left = gpu_engine(cuda, num_rows=8), iter(REQUESTS)
    batches = [list(itertools.islice(left, size)) for size in sizes]

    for batch, answers in zip(batches, engine.stream(batches), strict=True):
        assert codes_of(answers) == {one.image_id: expected[one.image_id] for one in batch}


def test_a_full_batch_of_an_h100_has_the_codes_of_the_cpu(cuda: FakeCuda, expected: dict[str, list[int]]) -> None:
    """384 rows: 192 guided images, whose requests are those of the few over and over."""
    engine = gpu_engine(cuda, num_rows=384)
    guided = [one for one in REQUESTS if is_guided(one.cfg_weight)]
    assert engine.default_batch_size == 192
    answers = engine.render(list(itertools.islice(itertools.cycle(guided), 192)))
    for image, one in zip(answers, itertools.cycle(guided), strict=False):
        assert image.codes.tolist() == expected[one.image_id]


def test_no_request_has_no_answer(cuda: FakeCuda) -> None:
    engine = gpu_engine(cuda, num_rows=8)
    assert engine.render([]) == []
    assert list(engine.stream([])) == []
    assert list(engine.stream([[], []])) == [[], []]


@pytest.mark.parametrize("kv_cache", [None, "fp8"])
def test_replayed_graphs_give_the_bytes_of_calls(kv_cache: str | None, cuda: FakeCuda) -> None:
    engine = gpu_engine(cuda, num_rows=12, kv_cache=kv_cache)
    replayed = [engine.render(REQUESTS[:5]), *engine.stream([REQUESTS[:5]])]
    engine.loops._loops.clear()
    engine.loops._graphs = engine.decode_pixels.graphs = None
    for images in zip(engine.render(REQUESTS[:5]), *replayed, strict=True):
        assert len({image.codes.tobytes() + image.pixels.tobytes() for image in images}) == 1


def test_texts_before_images_are_those_of_the_cpu(expected_texts: list[Reasoning | Rejection], cuda: FakeCuda) -> None:
    """In several batches, twice: the graphs are captured first and replayed then."""
    assert len({len(one.cond) for one in expected_texts}) > 2
    assert texts(gpu_engine(cuda, num_rows=8)) == expected_texts


def test_the_time_of_a_batch_is_estimated_with_prompts_of_which_fewer_fit(cuda: FakeCuda) -> None:
    engine = gpu_engine(cuda, num_rows=8)
    long = request("a long prompt " * 30, cfg_weight=5.0)
    engine.reasoner = Reasoner(PROTOCOL, engine.tokenizer, engine.model.llama, text_head(), engine.loops)
    assert len(engine.split([long] * 4, [engine.tokenize(long)] * 4)) > 1
    assert engine.default_batch_size == 4
    assert engine.seconds_per_batch(long) > 0


@pytest.mark.parametrize("launch", [1, 9, 20, 27, 33, 40, 52, 60, 80, 100])
def test_where_memory_runs_out_smaller_batches_give_the_same_codes(
    launch: int, cuda: FakeCuda, expected: dict[str, list[int]]
) -> None:
    engine = gpu_engine(cuda, num_rows=8)
    batcher = Batcher(engine, 4)
    cuda.launches_left = launch
    answers = [answer for finished in batcher.render(REQUESTS) for _, answer in finished]
    assert cuda.launches_left < 0, "memory did not run out"
    assert batcher.batch_size == 2
    assert codes_of(answers) == expected
