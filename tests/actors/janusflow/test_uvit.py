"""The U-ViT encoder and decoder against the reference's tensors, and their layers against formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from actors.janusflow.network import FlowNetwork
from actors.janusflow.uvit import GlobalResponseNorm, TimeEmbedding, Unpatchify
from actors.layers import VectorLinear
from tests.support.flow_engine import golden, tiny_network


@pytest.fixture(scope="module")
def network() -> FlowNetwork:
    return tiny_network()


@pytest.fixture(scope="module")
def parts() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden("flow_parts.npz").items()}


# ---- the reference's numbers -----------------------------------------------------------------------------------------


def test_the_encoders_map_matches_the_reference(network: FlowNetwork, parts: dict[str, torch.Tensor]) -> None:
    map_BCHW, t_emb_BD = network.vision_gen_enc_model(parts["z0"][:1], torch.zeros(1))

    torch.testing.assert_close(map_BCHW[0], parts["x_emb_step0"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(t_emb_BD[0], parts["t_emb"][0], rtol=0, atol=1e-5)


def test_the_time_embeddings_match_the_reference(network: FlowNetwork, parts: dict[str, torch.Tensor]) -> None:
    t_emb_BD = network.vision_gen_enc_model.time_embed(parts["t_values"].float(), torch.float32)

    torch.testing.assert_close(t_emb_BD, parts["t_emb"], rtol=0, atol=1e-5)


def test_the_decoders_velocity_matches_the_reference(network: FlowNetwork, parts: dict[str, torch.Tensor]) -> None:
    t_emb_BD = parts["t_emb"][:1].expand(2, -1)

    v_BCHW = network.vision_gen_dec_model(parts["dec_input_step0"], parts["x_emb_step0"], t_emb_BD)

    torch.testing.assert_close(v_BCHW, parts["dec_output_step0"], rtol=0, atol=1e-5)


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_the_time_embedding_begins_with_the_cosines() -> None:
    embedding = TimeEmbedding(channels=6, hidden_size=6).requires_grad_(False)
    torch.nn.init.eye_(embedding.linear_1.weight)
    torch.nn.init.eye_(embedding.linear_2.weight)
    torch.nn.init.zeros_(embedding.linear_1.bias)
    torch.nn.init.zeros_(embedding.linear_2.bias)
    phase = torch.tensor([250.0]) * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])

    waves = embedding(torch.tensor([250.0]), torch.float32)

    torch.testing.assert_close(waves, F.silu(torch.cat([phase.cos(), phase.sin()]))[None], rtol=0, atol=1e-5)


def test_global_response_norm_scales_each_channel_by_its_share_of_the_norm() -> None:
    norm = GlobalResponseNorm(2)
    torch.nn.init.constant_(norm.weight, 0.5)
    torch.nn.init.constant_(norm.bias, 0.25)
    x_BHWC = torch.zeros(1, 2, 2, 2)
    x_BHWC[0, 0, 0] = torch.tensor([3.0, 1.0])  # the channels' norms are 3 and 1, their mean 2

    y_BHWC = norm(x_BHWC)

    expected = torch.full((1, 2, 2, 2), 0.25)
    expected[0, 0, 0] += torch.tensor([3.0 * (1 + 0.5 * 1.5), 1.0 * (1 + 0.5 * 0.5)])
    torch.testing.assert_close(y_BHWC, expected)


def test_unpatchify_lays_out_a_position_as_a_patch() -> None:
    unpatchify = Unpatchify(channels=4, out_channels=1, norm_eps=0.0)
    torch.nn.init.zeros_(unpatchify.unpatch_conv.bias)
    unpatchify.unpatch_conv.weight.data = torch.eye(4)[:, :, None, None]
    x_BCHW = torch.ones(1, 4, 1, 1) * torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None, None]

    assert unpatchify(x_BCHW).tolist() == [[[[1.0, -1.0], [1.0, -1.0]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vectors_product_has_the_same_bits_next_to_any_number_of_others(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = VectorLinear(64, 176).to(dtype).requires_grad_(False)
    x_BI = torch.randn(130, 64, generator=generator).to(dtype)
    whole = linear(x_BI)

    for num_rows in (1, 2, 3, 4, 7, 63, 64, 65, 129):
        assert torch.equal(linear(x_BI[:num_rows]), whole[:num_rows])
        assert torch.equal(linear(x_BI[-num_rows:]), whole[-num_rows:])
    torch.testing.assert_close(whole, F.linear(x_BI, linear.weight, linear.bias))
