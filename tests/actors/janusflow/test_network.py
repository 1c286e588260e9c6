"""JanusFlow's network: prompts read once, rows of different prompts in one call, against plain forward passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from actors.janusflow.config import FlowShape, read_shape
from actors.janusflow.network import NOT_NEEDED, FlowNetwork, build_network, tensor_shapes
from actors.llama.config import LlamaShape
from tests.support.checkpoints import published
from tests.support.flow_engine import PROMPTS, golden, tiny_network

# A tolerance for float32 sums in another order.
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def network() -> FlowNetwork:
    return tiny_network()


def latents(network: FlowNetwork, num_rows: int) -> torch.Tensor:
    size = 2 * network.grid_size
    return torch.randn(num_rows, 4, size, size, generator=torch.Generator().manual_seed(0))


def recomputed(network: FlowNetwork, z_BCHW: torch.Tensor, t: float, ids: Sequence[int]) -> torch.Tensor:
    """The velocity of one row the plain way: prompt, time and image through transformers' own causal attention."""
    llama = network.language_model.model
    plain = LlamaModel(LlamaConfig(**llama.config.to_dict() | {"attn_implementation": "eager"})).eval()
    plain.load_state_dict(llama.state_dict())
    map_BCHW, t_emb_BD = network.vision_gen_enc_model(z_BCHW, torch.tensor([1000 * t]))
    image_BQD = network.vision_gen_enc_aligner(map_BCHW.flatten(2).transpose(1, 2))
    prompt_BPD = plain.embed_tokens(torch.tensor([ids]))
    with torch.no_grad():
        hidden = plain(inputs_embeds=torch.cat([prompt_BPD, t_emb_BD[:, None], image_BQD], dim=1)).last_hidden_state
    hidden = network.vision_gen_dec_aligner(network.vision_gen_dec_aligner_norm(hidden[:, -image_BQD.shape[1] :]))
    hidden = hidden.unflatten(1, map_BCHW.shape[2:]).permute(0, 3, 1, 2)
    return network.vision_gen_dec_model(hidden, map_BCHW, t_emb_BD)


def test_rows_of_different_prompts_and_times_match_a_plain_forward_pass(network: FlowNetwork) -> None:
    z_BCHW = latents(network, 3)
    times = [0.0, 0.4, 0.97]
    all_ids = [prompt["used_ids"] for prompt in PROMPTS]

    v_BCHW = network(z_BCHW, torch.tensor(times, dtype=torch.float64), [network.read_prompt(ids) for ids in all_ids])

    for row, (t, ids) in enumerate(zip(times, all_ids, strict=True)):
        torch.testing.assert_close(v_BCHW[row], recomputed(network, z_BCHW[row : row + 1], t, ids)[0], **CLOSE)


def test_the_language_models_hidden_states_match_the_reference(network: FlowNetwork) -> None:
    parts = golden("flow_parts.npz")
    ids = parts["ids"].tolist()
    cond = network.read_prompt(ids)
    uncond = dataclasses.replace(network.read_prompt(ids[:1]), next_position=len(ids))
    z_BCHW = torch.from_numpy(parts["z0"][[0, 0]])
    seen = []
    handle = network.vision_gen_dec_aligner_norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))

    network(z_BCHW, torch.zeros(2, dtype=torch.float64), [cond, uncond])

    handle.remove()
    expected = torch.from_numpy(parts["llm_last_hidden_state_step0"])[:, -seen[0].shape[1] :]
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_ids", [1, 2, 63, 64, 65])
def test_a_prompt_state_has_one_key_per_token(network: FlowNetwork, num_ids: int) -> None:
    ids = (PROMPTS[2]["used_ids"])[:num_ids]

    state = network.read_prompt(ids)

    assert {keys.shape[1] for keys in state.keys} == {values.shape[1] for values in state.values} == {num_ids}
    assert state.next_position == num_ids
    z_BCHW, t_B = latents(network, 1), torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(network(z_BCHW, t_B, [state]), recomputed(network, z_BCHW, 0.3, ids), **CLOSE)


def test_a_prompts_bits_do_not_depend_on_the_number_of_threads(network: FlowNetwork) -> None:
    num_read: list[int] = []
    handle = network.language_model.model.layers[0].register_forward_pre_hook(
        lambda module, args: num_read.append(args[0].shape[1])
    )

    for num_ids in (1, 23, 64, 65, 143):
        network.read_prompt(PROMPTS[2]["used_ids"][:num_ids])

    handle.remove()
    assert num_read == [64, 64, 64, 128, 192]


def test_a_step_does_not_change_a_prompts_state(network: FlowNetwork) -> None:
    state = network.read_prompt(PROMPTS[0]["used_ids"])
    before = [tensor.clone() for tensor in (*state.keys, *state.values, state.mask_QT)]

    first = network(latents(network, 1), torch.zeros(1, dtype=torch.float64), [state])
    second = network(latents(network, 1), torch.zeros(1, dtype=torch.float64), [state])

    assert torch.equal(first, second)
    assert all(map(torch.equal, before, (*state.keys, *state.values, state.mask_QT)))


def test_grouped_key_value_heads_serve_several_query_heads() -> None:
    """Two key/value heads for four query heads are the same model as four, each pair of them alike."""
    grouped, full = (_random_network(num_kv_heads) for num_kv_heads in (2, 4))
    weights = full.state_dict()
    for name, tensor in grouped.state_dict().items():
        if "k_proj" in name or "v_proj" in name:
            tensor = tensor.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
        weights[name].copy_(tensor)
    ids = [5, 6, 7]

    z_BCHW, t_B = latents(full, 2), torch.tensor([0.1, 0.6], dtype=torch.float64)
    expected = full(z_BCHW, t_B, [full.read_prompt(ids)] * 2)

    torch.testing.assert_close(grouped(z_BCHW, t_B, [grouped.read_prompt(ids)] * 2), expected, **CLOSE)


def _random_network(num_kv_heads: int) -> FlowNetwork:
    llama = LlamaShape(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=8,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        context_length=64,
    )
    shape = FlowShape(
        llama=llama,
        latent_channels=4,
        latent_size=8,
        encoder_channels=8,
        decoder_channels=8,
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        norm_eps=1e-6,
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FlowNetwork(shape, 8).state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(size, generator=generator) / 4 for name, size in shapes.items()}
    return build_network(weights, shape, 8)


# Counted by hand from the architecture. A text model: embedding, norm, 9 tensors a layer. The image side: 4 of the time
# embedding, 2 of the input convolution, 4 blocks of 11, 2 + 3 of the aligners, 1 + 3 around the decoder.
NUM_TENSORS = (2 + 9 * 24) + (4 + 2 + 4 * 11 + 2 + 3 + 1 + 3)


def test_every_needed_tensor_is_in_the_published_checkpoint_in_its_shape() -> None:
    config, state_dict = published("JanusFlow-1.3B")
    expected = tensor_shapes(read_shape(config))
    assert len(expected) == NUM_TENSORS
    assert {name: state_dict.get(name) for name in expected} == expected


def test_every_other_tensor_is_listed_as_not_needed() -> None:
    config, state_dict = published("JanusFlow-1.3B")
    expected, left = tensor_shapes(read_shape(config)), tuple(NOT_NEEDED)
    assert [name for name in state_dict if name not in expected and not name.startswith(left)] == []
    assert [name for name in expected if name.startswith(left)] == []
