"""The calls of a GPU's network: what stays where it is for a CUDA graph, and a row's bits in any company."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import pytest
import torch

from actors.janusflow import packed as flow_packed
from actors.janusflow.packed import LanguageModel, PackedPrompt, PackedRows
from actors.llama import packed as llama_packed
from actors.llama.packed import PackedLlama
from tests.support.random_llama import llama_shape, random_weights
from tests.support.triton import DEVICE, needs_triton, random

SHAPE = llama_shape(hidden_size=32, intermediate_size=40, num_heads=2, num_kv_heads=2, head_dim=8)
NUM_TOKENS = 3
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 2]]


class Graphs:
    """Runs what a CUDA graph would: new work twice, before the capture and at the first replay, then once each time."""

    def __init__(self) -> None:
        self.works: dict[Hashable, Callable[[], None]] = {}
        self.num_captures = 0

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        if key not in self.works:
            self.num_captures += 1
            self.works[key] = work
            work()
        self.works[key]()

    def clear(self) -> None:
        self.works.clear()


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(llama_packed, "CHUNK", 16)
    monkeypatch.setattr(flow_packed, "PROMPT_SLOTS", 8)
    with torch.inference_mode():
        yield


def packed_rows() -> PackedRows:
    weights = {name: tensor.to(DEVICE) for name, tensor in random_weights(SHAPE, torch.float32).items()}
    return PackedRows(PackedLlama(weights, SHAPE), NUM_TOKENS, Graphs())


def velocity(z_BCHW: torch.Tensor, t_B: torch.Tensor, language_model: LanguageModel) -> torch.Tensor:
    """Of latents [B, 1, NUM_TOKENS, hidden_size], which are the embeddings themselves."""
    return language_model(z_BCHW[:, 0])[:, None] + t_B.view(-1, 1, 1, 1)


def run(rows: PackedRows, prompts: list[PackedPrompt], seeds: list[int]) -> torch.Tensor:
    z_BCHW = torch.stack([random(1, NUM_TOKENS, SHAPE.hidden_size, seed=seed) for seed in seeds])
    return rows.run(velocity, z_BCHW, torch.tensor(seeds, device=DEVICE) / 8, prompts)


@needs_triton
def test_calls_of_other_prompts_reuse_buffers_and_graphs_until_more_slots_are_needed() -> None:
    rows = packed_rows()
    a, b, c, d = rows.read_prompts(PROMPTS)
    expected = run(rows, [a, b], [0, 1])
    num_captures = []
    for prompts in ([c, d], [d, a], [b, c], [a, b]):
        v_BCHW = run(rows, prompts, [0, 1])
        num_captures.append(rows.graphs.num_captures)
    assert num_captures == [2] * 4
    assert torch.equal(v_BCHW, expected)

    assert run(rows, [c, c], [0, 1]).isfinite().all()  # ten tokens
    assert rows.graphs.num_captures == 3
    assert len(rows.graphs.works) == 1
    assert torch.equal(run(rows, [a, b], [0, 1]), expected)


@needs_triton
def test_a_rows_bits_depend_neither_on_its_company_nor_on_what_the_buffer_held_before() -> None:
    rows = packed_rows()
    a, b, c, d = rows.read_prompts(PROMPTS)
    expected = run(rows, [a, b, c, d], [0, 1, 2, 3])
    nan = PackedPrompt(kv=torch.full_like(d.kv, torch.nan), next_position=d.next_position)
    for prompts, seeds in (([c, nan, a], [2, 9, 0]), ([d, b], [3, 1]), ([nan, nan], [5, 6]), ([b, d], [1, 3])):
        for row, v_CHW in enumerate(run(rows, prompts, seeds)):
            if prompts[row] is nan:
                assert v_CHW.isnan().any()
            else:
                assert torch.equal(v_CHW, expected[seeds[row]])
