"""The engine's GPU path, on a CPU in Triton's interpreter: the CPU path's codes, and an image's bytes in any batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from actors.errors import InputError
from actors.janus import batching
from actors.janus.batching import GpuLoops, bytes_per_page
from actors.janus.decode_loop import DecodeLoop
from actors.janus.decoder import gpu_decoder
from actors.janus.engine import JanusEngine
from actors.janus.network import TEXT_HEAD, build_code_model, read_weights
from actors.janus.reasoning import Reasoner
from actors.kernels.attention import FP8
from actors.llama import packed
from actors.prompt.protocol import Protocol
from actors.prompt.template import PromptTemplate
from actors.request import Rejection
from tests.support.checkpoints import TINY, fetched
from tests.support.hardware import runs_engines_on_a_cpu
from tests.support.janus_engine import PROMPTS, engine, request
from tests.support.triton import DEVICE, needs_triton

GRID_SIZE = 2  # four codes: the interpreter takes a second for each
LONG = "a long prompt " * 3  # 41 tokens: more than a chunk


@pytest.fixture(autouse=True)
def small_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packed, "CHUNK", 32)
    monkeypatch.setattr(batching, "SMALLEST_LOOP", 1)
    with torch.inference_mode():
        yield


def gpu_engine(cache_dtype: torch.dtype | None = None) -> JanusEngine:
    """The tiny checkpoint as a GPU runs it, with memory for 40 pages."""
    janus = engine(grid_size=GRID_SIZE)
    weights = read_weights(fetched(TINY), dtype=torch.float32, device=DEVICE)
    janus.model = build_code_model(weights, janus.shape, is_packed=True, cache_dtype=cache_dtype)
    memory = 40 * bytes_per_page(janus.shape.llama, cache_dtype or torch.float32)
    janus.loops = GpuLoops(janus.model, janus.num_codes, memory)
    janus.decode_pixels = gpu_decoder(janus.vq, GRID_SIZE, graphs=None)
    return janus


@needs_triton
def test_codes_are_those_of_the_cpu_and_an_images_bytes_do_not_depend_on_its_batch() -> None:
    janus, reference = gpu_engine(), engine(grid_size=GRID_SIZE)
    requests = [
        request("a cat", image_id="a"),
        request(PROMPTS[0], image_id="b", temperature=1.0, seed=3, negative_prompt="blue"),
        request(LONG, image_id="c", cfg_weight=1.0),
    ]
    together = janus.render(requests)
    for image, expected in zip(together, reference.render(requests), strict=True):
        assert image.codes.tolist() == expected.codes.tolist()
        assert abs(image.pixels.astype(int) - expected.pixels.astype(int)).max() <= 1
    for image in [image for answers in janus.stream([requests[2:], requests[1::-1]]) for image in answers]:
        expected = together["abc".index(image.image_id)]
        assert image.codes.tolist() == expected.codes.tolist()
        assert image.pixels.tobytes() == expected.pixels.tobytes()


@needs_triton
def test_running_a_step_twice_has_the_effect_of_running_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph needs this: the step runs before it is captured, and again at the first replay."""
    janus, requests = gpu_engine(), [request("a cat", temperature=1.0)]
    expected = janus.render(requests)[0].codes.tolist()
    monkeypatch.setattr(DecodeLoop, "_launch", lambda loop, key, work: (work(), work()))
    assert janus.render(requests)[0].codes.tolist() == expected


@needs_triton
def test_a_nan_does_not_affect_the_next_batch() -> None:
    janus, good, bad = gpu_engine(), request("a cat"), request("a dog")
    (expected,) = janus.render([good])
    embedding = janus.model.llama.embedding_VC
    (token, *_) = set(janus.tokenizer.cond_ids("a dog")) - set(janus.tokenizer.cond_ids("a cat"))
    embedding[token] = torch.nan
    assert isinstance(janus.render([bad])[0], Rejection)
    assert janus.render([good])[0].codes.tolist() == expected.codes.tolist()


@needs_triton
def test_a_text_before_an_image_is_that_of_the_cpu_and_does_not_depend_on_its_batch() -> None:
    protocol = Protocol(
        question=PromptTemplate(prefix="", suffix=""), max_tokens=2, top_k=9, ends_with_sentence=True, source=""
    )
    head_VC = read_weights(fetched(TINY), dtype=torch.float32, device=DEVICE, with_text_head=True)[TEXT_HEAD]
    gpu, cpu = gpu_engine(), engine(grid_size=GRID_SIZE)
    requests = [request("a cat", image_id="a", seed=1), request("a dog", image_id="b", seed=2)]
    writer, reference = (
        Reasoner(protocol, janus.tokenizer, janus.model.llama, head_VC.clone(), janus.loops) for janus in (gpu, cpu)
    )
    together = writer.write(requests)
    assert together == reference.write(requests)
    assert writer.write(requests[1:]) == together[1:]
    assert writer.loops.pool is gpu.loops.pool


@needs_triton
def test_keys_and_values_in_fp8_leave_an_images_bytes_independent_of_its_batch() -> None:
    janus = gpu_engine(FP8)
    requests = [request("a cat", image_id="a"), request(LONG, image_id="b", cfg_weight=1.0)]
    together = janus.render(requests)
    assert janus.loops.pool.kv.dtype == FP8
    for image, expected in zip((janus.render([entry])[0] for entry in requests), together, strict=True):
        assert image.codes.tolist() == expected.codes.tolist()
        assert image.pixels.tobytes() == expected.pixels.tobytes()


@runs_engines_on_a_cpu
def test_keys_and_values_in_fp8_are_refused_on_a_cpu() -> None:
    with pytest.raises(InputError, match=r"model\.kv_cache: fp8 needs a GPU of compute capability 8\.9 .* the CPU has"):
        engine(kv_cache="fp8")
