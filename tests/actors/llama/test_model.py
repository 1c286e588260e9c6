"""The decoder on a CPU: the reference's numbers, transformers' numbers, and rows that do not mix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from actors.janus.network import read_weights
from actors.llama.cache import RowCache
from actors.llama.model import SEGMENT, Llama, num_slots
from tests.support.checkpoints import DATA, TINY, fetched
from tests.support.dtypes import BIT_EQUAL_DTYPES
from tests.support.random_llama import llama_shape, random_llama, random_weights, transformers_llama_config

SHAPES = {
    "as many key heads as query heads": llama_shape(),
    "groups of four query heads": llama_shape(num_heads=8, num_kv_heads=2, head_dim=8),
}
# Wide enough that the feed-forward part of many rows is shared among threads, in shares of odd sizes.
WIDE = {
    "heads": llama_shape(hidden_size=256, intermediate_size=696, num_heads=8, num_kv_heads=8, head_dim=32),
    "groups": llama_shape(hidden_size=256, intermediate_size=696, num_heads=8, num_kv_heads=2, head_dim=32),
}


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(num_threads)


def random_ids(num: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(300, (num,), generator=torch.Generator().manual_seed(seed))


def new_cache(llama: Llama, num_rows: int, num_tokens: int) -> RowCache:
    return RowCache(torch.zeros(llama.cache_size(num_rows, num_slots(num_tokens))))


def test_hidden_states_of_a_prompt_are_the_references() -> None:
    golden = np.load(DATA / "goldens" / "janus_parts.npz")
    checkpoint = fetched(TINY)
    llama = Llama(read_weights(checkpoint, dtype=torch.float32, device="cpu"), checkpoint.shape.llama)

    for ids, expected in zip(golden["prefill_ids"], golden["prefill_last_hidden_state"], strict=True):
        hidden_TC, _ = llama.read_prompt(llama.embedding_VC[torch.tensor(ids)])
        np.testing.assert_allclose(hidden_TC, expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_hidden_states_are_those_of_transformers(shape) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaModel(transformers_llama_config(shape))
    weights = random_weights(shape)
    theirs.load_state_dict({name.removeprefix("language_model.model."): weights[name] for name in weights})
    ours, ids = Llama(weights, shape), random_ids(50)

    hidden_TC, _ = ours.read_prompt(ours.embedding_VC[ids])
    torch.testing.assert_close(hidden_TC, theirs(ids[None]).last_hidden_state[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ragged_rows_decoded_token_by_token_match_prefilling_the_whole(shape) -> None:
    llama, num_steps = random_llama(shape), 70
    rows = [random_ids(num_prompt + num_steps, seed=num_prompt) for num_prompt in (3, 20, 63)]
    lengths = torch.tensor([len(ids) - num_steps for ids in rows])
    cache = new_cache(llama, len(rows), int(lengths.max()) + num_steps)
    states = llama.prefill([ids[:length].tolist() for ids, length in zip(rows, lengths, strict=True)])
    assert torch.equal(cache.load(states), lengths)

    steps = []
    for step in range(num_steps):
        x_RC = llama.embedding_VC[torch.stack([ids[length + step] for ids, length in zip(rows, lengths, strict=True)])]
        steps.append(llama.decode(x_RC, lengths + step, cache))

    for row, ids in enumerate(rows):
        whole_TC, _ = llama.read_prompt(llama.embedding_VC[ids])
        torch.testing.assert_close(
            torch.stack([hidden[row] for hidden in steps]), whole_TC[-num_steps:], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("dtype", BIT_EQUAL_DTYPES)
@pytest.mark.parametrize("shape", WIDE.values(), ids=WIDE)
def test_a_rows_bits_depend_on_nothing_but_the_row(shape, dtype: torch.dtype) -> None:
    """Neither on the number of rows, the row's place, the other rows' tokens and positions, nor on the threads."""
    llama, num_rows, chance = random_llama(shape, dtype), 64, torch.Generator().manual_seed(1)
    position_R = torch.randint(300, (num_rows,), generator=chance)
    x_RC = llama.embedding_VC[random_ids(num_rows)]
    kv = new_cache(llama, num_rows, 400).kv
    is_filled_RT = torch.arange(kv.shape[4]) < position_R[:, None]
    kv += torch.randn(kv.shape, generator=chance) * is_filled_RT[:, None, :, None]

    torch.set_num_threads(1)
    expected_RC = llama.decode(x_RC, position_R, RowCache(kv.clone()))
    for num_threads in (1, 2, 3, 5):
        torch.set_num_threads(num_threads)
        for size in (2, 3, 5, 16, 50, 63):
            rows = torch.randperm(num_rows, generator=chance)[:size]
            hidden_RC = llama.decode(x_RC[rows], position_R[rows], RowCache(kv[:, :, rows]))
            assert torch.equal(hidden_RC, expected_RC[rows]), f"{size} rows, {num_threads} threads"


@pytest.mark.parametrize("dtype", BIT_EQUAL_DTYPES)
def test_a_prompts_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    llama = random_llama(WIDE["heads"], dtype)
    for num_tokens in (5, 33, 130):
        x_TC = llama.embedding_VC[random_ids(num_tokens)]
        torch.set_num_threads(1)
        hidden_TC, kv = llama.read_prompt(x_TC)
        for num_threads in (2, 3, 8):
            torch.set_num_threads(num_threads)
            again_TC, kv_again = llama.read_prompt(x_TC)
            assert torch.equal(again_TC, hidden_TC), f"{num_tokens} tokens, {num_threads} threads"
            assert torch.equal(kv_again, kv)


@pytest.mark.parametrize("num_first", [1, 40])
def test_a_prompt_read_in_two_parts_has_the_numbers_of_the_whole(num_first: int) -> None:
    llama = random_llama(llama_shape(num_kv_heads=2))
    x_TC = llama.embedding_VC[random_ids(53)]
    whole_TC, whole_kv = llama.read_prompt(x_TC)
    first_TC, first_kv = llama.read_prompt(x_TC[:num_first])
    ((rest_TC, rest_kv),) = llama.read([x_TC[num_first:]], [first_kv])
    torch.testing.assert_close(torch.cat((first_TC, rest_TC)), whole_TC, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat((first_kv, rest_kv), dim=3), whole_kv, rtol=0, atol=1e-4)


def test_a_row_of_nans_leaves_its_neighbors_alone() -> None:
    llama = random_llama(llama_shape())
    x_RC, position_R = llama.embedding_VC[random_ids(4)], torch.tensor([5, 9, 2, 0])
    expected_RC = llama.decode(x_RC, position_R, new_cache(llama, 4, SEGMENT))
    x_RC[1] = torch.nan
    hidden_RC = llama.decode(x_RC, position_R, new_cache(llama, 4, SEGMENT))

    assert hidden_RC[1].isnan().all()
    others = [0, 2, 3]
    assert torch.equal(hidden_RC[others], expected_RC[others])


def test_the_decoder_takes_only_its_tensors() -> None:
    shape = llama_shape()
    weights = random_weights(shape) | {"gen_embed.weight": torch.zeros(1)}
    Llama(weights, shape)
    assert list(weights) == ["gen_embed.weight"]
