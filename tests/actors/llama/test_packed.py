"""The decoder on a GPU: the CPU decoder's numbers, and a prompt's and a row's bits in any company."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from actors.errors import CheckpointError
from actors.kernels.attention import FP8, PAGE, to_fp8
from actors.llama import packed
from actors.llama.cache import EMPTY_ROW, PagedCache, PagePool, PromptState, pages_of
from actors.llama.packed import PackedLlama
from actors.llama.packing import Packing, pack
from tests.support.random_llama import llama_shape, random_llama, random_weights
from tests.support.triton import DEVICE, needs_triton, random

# Small: the interpreter takes milliseconds for each program of a launch.
SMALL = {"hidden_size": 32, "intermediate_size": 40, "head_dim": 8}
SHAPE = llama_shape(num_heads=2, num_kv_heads=2, **SMALL)
SHAPES = {"as many key heads as query heads": SHAPE, "groups": llama_shape(num_heads=4, num_kv_heads=2, **SMALL)}
CHUNK = 16
PROMPTS = [list(range(start, start + length)) for start, length in ((0, 3), (20, 9), (9, 6))]
NUM_NEW = 3
LONG = list(range(PAGE - 2))  # its new tokens cross into a second page


@pytest.fixture(autouse=True)
def inference(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packed, "CHUNK", CHUNK)
    with torch.inference_mode():
        yield


def packed_llama(shape, dtype: torch.dtype = torch.float32) -> PackedLlama:
    weights = {name: tensor.to(DEVICE) for name, tensor in random_weights(shape, dtype).items()}
    return PackedLlama(weights, shape)


def paged_cache(llama: PackedLlama, states: list[PromptState], num_rows: int, dtype: torch.dtype) -> PagedCache:
    shape, num_pages = llama.shape, sum(pages_of(state.num_tokens + NUM_NEW) for state in states)
    size = (shape.num_layers, num_pages, shape.num_kv_heads, shape.head_dim)
    pool = PagePool(size, dtype=dtype, device=DEVICE)
    return PagedCache(pool, num_rows=num_rows, num_new=NUM_NEW, context_length=shape.context_length)


def decode(llama: PackedLlama, rows: list[int], num_rows: int, *, cache_dtype=torch.float32) -> torch.Tensor:
    """Hidden states [rows, NUM_NEW, C] of new tokens after some of [LONG, *PROMPTS], in a batch of `num_rows` rows."""
    states = [_on_device(state) for state in random_llama(llama.shape).prefill([[LONG, *PROMPTS][row] for row in rows])]
    cache = paged_cache(llama, states, num_rows, cache_dtype)
    length_R = cache.load(states).to(DEVICE)
    steps = []
    for step in range(NUM_NEW):
        ids = [new_token(row, step) for row in rows] + [0] * (num_rows - len(rows))
        x_RC = llama.embedding_VC[torch.tensor(ids, device=DEVICE)]
        steps.append(llama.decode(x_RC, length_R + step, cache)[: len(rows)])
    return torch.stack(steps, dim=1)


def _on_device(state: PromptState) -> PromptState:
    return PromptState(hidden_C=state.hidden_C.to(DEVICE), kv=state.kv.to(DEVICE))


def new_token(row: int, step: int) -> int:
    return (7 * row + 3 * step) % 300


@needs_triton
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_states_of_prompts_are_those_of_the_cpus_decoder(shape) -> None:
    states = packed_llama(shape).prefill(PROMPTS)
    for state, expected in zip(states, random_llama(shape).prefill(PROMPTS), strict=True):
        torch.testing.assert_close(state.hidden_C.cpu(), expected.hidden_C, rtol=0, atol=1e-4)
        torch.testing.assert_close(state.kv.cpu(), expected.kv, rtol=0, atol=1e-4)


@needs_triton
def test_a_prompts_bits_do_not_depend_on_its_company() -> None:
    """Alone, and in another order after a prompt that is longer than a chunk."""
    llama = packed_llama(SHAPE)
    expected = llama.prefill(PROMPTS)
    alone = [llama.prefill([prompt])[0] for prompt in PROMPTS]
    in_other_company = llama.prefill([[5] * (CHUNK + 1), *PROMPTS[::-1]])[:0:-1]
    for states in (alone, in_other_company):
        for state, other in zip(states, expected, strict=True):
            assert torch.equal(state.hidden_C, other.hidden_C)
            assert torch.equal(state.kv, other.kv)


@needs_triton
def test_tokens_that_follow_others_have_the_numbers_of_the_whole_and_their_own_bits_in_any_company() -> None:
    llama, reference = packed_llama(SHAPE), random_llama(SHAPE)
    states = [_on_device(state) for state in reference.prefill(PROMPTS)]
    embeddings = [llama.embedding_VC[torch.tensor(ids, device=DEVICE)] for ids in ([7, 8], [9], [30, 31, 32, 33])]
    together = llama.read(embeddings, [state.kv for state in states], chunk=8)
    for row, (hidden_TC, kv) in enumerate(together):
        (alone,) = llama.read([embeddings[row]], [states[row].kv], chunk=8)
        assert torch.equal(alone[0], hidden_TC)
        assert torch.equal(alone[1], kv)
        num_new, x_TC = len(embeddings[row]), embeddings[row].cpu()
        expected_TC, expected_kv = reference.read_prompt(x_TC, states[row].kv.cpu())
        assert kv.shape[3] == num_new
        torch.testing.assert_close(hidden_TC.cpu(), expected_TC, rtol=0, atol=1e-4)
        torch.testing.assert_close(kv.cpu(), expected_kv, rtol=0, atol=1e-4)


def test_a_call_holds_as_many_sequences_as_fit_with_the_tokens_that_they_follow() -> None:
    assert list(packed._calls([3, 4, 9, 20, 1], [0] * 5, 8)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(packed._calls([1] * 4, [packed.MAX_SLOTS // 2] * 4, 8)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert list(packed._calls([], [], 8)) == []


def test_every_call_of_a_prefill_has_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    num_tokens = []

    def run(llama: PackedLlama, x_TC: torch.Tensor, *_) -> torch.Tensor:
        num_tokens.append(len(x_TC))
        return x_TC

    monkeypatch.setattr(PackedLlama, "run", run)
    packed_llama(SHAPE).prefill([*PROMPTS, [5] * (CHUNK + 1)])
    assert num_tokens == [CHUNK, CHUNK, 2 * CHUNK]


@pytest.mark.parametrize("chunk", [None, 2 * CHUNK])
def test_a_call_takes_no_position_that_the_model_does_not_have(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would read behind the rotary tables."""
    last_positions = []

    def run(llama: PackedLlama, x_TC: torch.Tensor, packing: Packing, *_) -> torch.Tensor:
        last_positions.append(int(packing.position_T.max()))
        return x_TC

    monkeypatch.setattr(PackedLlama, "run", run)
    context_length = CHUNK // 2
    llama = packed_llama(dataclasses.replace(SHAPE, context_length=context_length))
    llama.read([llama.embedding_VC[:1], llama.embedding_VC[:context_length]], [None, None], chunk=chunk)
    assert last_positions == [context_length - 2, context_length - 1]


@needs_triton
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ragged_rows_decoded_token_by_token_match_prefilling_the_whole(shape) -> None:
    hidden_RNC = decode(packed_llama(shape), [0, 1, 2], num_rows=4)
    reference = random_llama(shape)
    for row, prompt in enumerate([LONG, *PROMPTS[:2]]):
        ids = torch.tensor([*prompt, *[new_token(row, step) for step in range(NUM_NEW)]])
        whole_TC, _ = reference.read_prompt(reference.embedding_VC[ids])
        torch.testing.assert_close(hidden_RNC[row].cpu(), whole_TC[-NUM_NEW:], rtol=0, atol=2e-4)


@needs_triton
def test_keys_and_values_in_fp8_stay_near() -> None:
    llama = packed_llama(SHAPE)
    expected, hidden_RNC = (decode(llama, [0, 2], num_rows=2, cache_dtype=dtype) for dtype in (torch.float32, FP8))
    assert not torch.equal(hidden_RNC, expected)
    assert (hidden_RNC - expected).square().mean() < 0.05 * expected.square().mean()


@needs_triton
def test_a_rows_bits_do_not_depend_on_the_number_of_rows_or_on_their_order() -> None:
    llama = packed_llama(SHAPE)
    expected = decode(llama, [0, 1, 2], num_rows=3)
    for rows, num_rows in (([1], 1), ([2, 0], 7)):
        assert torch.equal(decode(llama, rows, num_rows), expected[rows])


@needs_triton
def test_new_tokens_after_kept_ones_match_the_whole_sequence() -> None:
    """Packed rows of JanusFlow: two sequences of new tokens after prompts of two lengths."""
    llama, num_new = packed_llama(SHAPE), 2
    states, lengths = llama.prefill(PROMPTS[:2]), [len(prompt) for prompt in PROMPTS[:2]]
    packing = pack(lengths, [num_new] * 2, lengths, DEVICE)
    kv = llama.new_slots(sum(packing.num_slots))
    for slots, state in zip(kv.split(packing.num_slots, dim=2), states, strict=True):
        slots[:, :, :-num_new] = state.kv.transpose(2, 3)
    ids = [[new_token(row, step) for step in range(num_new)] for row in range(2)]

    hidden_TC = llama.run(llama.embedding_VC[torch.tensor(ids, device=DEVICE).view(-1)], packing, kv)

    reference = random_llama(SHAPE)
    for row, hidden_NC in enumerate(hidden_TC.split(num_new)):
        whole_TC, _ = reference.read_prompt(reference.embedding_VC[torch.tensor([*PROMPTS[row], *ids[row]])])
        torch.testing.assert_close(hidden_NC.cpu(), whole_TC[-num_new:], rtol=0, atol=1e-4)


def test_a_head_that_kernels_cannot_hold_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"power of two\), got 24"):
        packed_llama(llama_shape(head_dim=24))


@pytest.mark.parametrize("dtype", [torch.float32, FP8])
def test_the_slots_of_a_row_hold_its_prompt(dtype: torch.dtype) -> None:
    states = [
        PromptState(hidden_C=torch.zeros(8), kv=random(2, 2, 3, num_tokens, 8, seed=num_tokens).cpu())
        for num_tokens in (3, PAGE, 2 * PAGE + 5)
    ]
    pool = PagePool((2, 12, 3, 8), dtype=dtype, device=torch.device("cpu"))
    cache = PagedCache(pool, num_rows=4, num_new=NUM_NEW, context_length=4 * PAGE)
    assert cache.load(states).tolist() == [3, PAGE, 2 * PAGE + 5, EMPTY_ROW]
    for row, state in enumerate(states):
        for token in range(state.num_tokens):
            page, slot = cache.table_RM[row, token // PAGE], token % PAGE
            expected = state.kv[:, :, :, token]
            if dtype == FP8:
                expected, scales = to_fp8(expected)
                assert torch.equal(pool.scales[:, :, page, :, slot, None], scales)
            assert torch.equal(pool.kv[:, :, page, :, slot].float(), expected.float())


def test_a_batch_with_more_pages_than_the_pool_is_refused() -> None:
    state = PromptState(hidden_C=torch.zeros(8), kv=torch.zeros(1, 2, 1, PAGE, 8))
    pool = PagePool((1, 3, 1, 8), dtype=torch.float32, device=torch.device("cpu"))
    cache = PagedCache(pool, num_rows=4, num_new=NUM_NEW, context_length=2 * PAGE)
    assert (cache.load([state])[1:] < 0).all()
    with pytest.raises(ValueError, match="more than the 3 pages"):
        cache.load([state] * 2)
