"""The VQ decoder: the reference's numbers at every stage, other grids, and images that do not mix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from actors.janus.decoder import VQDecoder, load_vq_decoder
from actors.janus.network import read_weights
from actors.layers import to_uint8
from tests.support.checkpoints import DATA, TINY, fetched
from tests.support.dtypes import DTYPES, needs_bfloat16

NUM_CODES = 64  # entries of the tiny codebook


def decoder(dtype: torch.dtype = torch.float32) -> VQDecoder:
    checkpoint = fetched(TINY)
    return load_vq_decoder(read_weights(checkpoint, dtype=dtype, device="cpu"), checkpoint.shape.vq)


@pytest.fixture(scope="module")
def vq() -> VQDecoder:
    return decoder()


@pytest.fixture(scope="module")
def parts() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "goldens" / "janus_parts.npz"))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(num_threads)


def codes(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).long()


def random_codes(num_images: int, num_codes: int) -> torch.Tensor:
    return torch.randint(NUM_CODES, (num_images, num_codes), generator=torch.Generator().manual_seed(0))


def test_codebook_entries_have_length_1_and_match_the_reference(vq: VQDecoder, parts: dict[str, np.ndarray]) -> None:
    entries_VE = vq.look_up(torch.arange(NUM_CODES)[:, None], (1, 1))[:, :, 0, 0]
    np.testing.assert_allclose(entries_VE, parts["quantize_codebook_entry_all_codes"], atol=1e-6)
    torch.testing.assert_close(entries_VE.norm(dim=1), torch.ones(NUM_CODES))


def test_every_stage_matches_the_reference(vq: VQDecoder, parts: dict[str, np.ndarray]) -> None:
    x = vq.post_quant_conv(vq.look_up(codes(parts["decode_codes"]), (6, 6)))
    np.testing.assert_allclose(x[:1], parts["decode_post_quant_conv"], atol=1e-5)
    x = vq.decoder.conv_in(x)
    np.testing.assert_allclose(x[:1], parts["decode_conv_in"], atol=1e-5)
    np.testing.assert_allclose(vq.decoder.mid(x)[:1], parts["decode_after_mid"], atol=2e-5)
    np.testing.assert_allclose(vq(codes(parts["decode_codes"]), (6, 6)), parts["decode_f32"], atol=5e-5)


def test_a_grid_need_not_be_square(vq: VQDecoder, parts: dict[str, np.ndarray]) -> None:
    decoded = vq(codes(parts["decode_codes_h3w5"]), (3, 5))
    assert decoded.shape == (1, 3, 48, 80)
    np.testing.assert_allclose(decoded, parts["decode_f32_h3w5"], atol=5e-5)


def test_a_generated_image_matches_the_reference_before_it_is_clamped(vq: VQDecoder) -> None:
    golden = np.load(DATA / "goldens" / "janus_greedy.npz")
    decoded = vq(codes(golden["p0_cfg5_tokens"])[None], (6, 6))
    np.testing.assert_allclose(decoded[0], golden["p0_cfg5_decoded_f32"], atol=5e-5)


def test_the_grid_of_the_published_checkpoints(vq: VQDecoder) -> None:
    golden = np.load(DATA / "goldens" / "janus_greedy576.npz")
    decoded = vq(codes(golden["tokens"])[None], (24, 24))
    assert decoded.shape == (1, 3, 384, 384)
    np.testing.assert_allclose(decoded[0, :, ::32], golden["decoded_rows_f32"], atol=5e-5)


@needs_bfloat16
def test_bfloat16_runs_in_bfloat16_and_stays_close(vq: VQDecoder) -> None:
    low = decoder(torch.bfloat16)(random_codes(2, 36), (6, 6))
    assert low.dtype == torch.bfloat16
    high = vq(random_codes(2, 36), (6, 6))
    assert (low.float() - high).abs().mean() < 0.02 * high.std()


def test_pixels_are_truncated_and_not_rounded() -> None:
    values = torch.tensor([-3.0, -1.0, -0.9999, 0.0, 0.5, 0.9999, 1.0, 3.0])
    expected = [0, 0, 0, 127, 191, 254, 255, 255]  # 0 -> 127.5, 0.5 -> 191.25, 0.9999 -> 254.98
    decoded = values.expand(1, 3, 1, 8)
    assert to_uint8(decoded).tolist() == [[[[value] * 3 for value in expected]]]
    assert to_uint8(decoded.bfloat16()).dtype == torch.uint8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [(6, 6), (3, 5)], ids=["6x6", "3x5"])
def test_an_images_bits_do_not_depend_on_its_neighbor_its_position_or_the_threads(
    grid: tuple[int, int], dtype: torch.dtype
) -> None:
    vq, images = decoder(dtype), random_codes(5, grid[0] * grid[1])
    torch.set_num_threads(1)
    expected = torch.cat([vq(pair, grid) for pair in (images[:2], images[2:4], images[3:])])[[0, 1, 2, 3, 5]]

    for num_threads in (1, 2, 3, 5, 8):
        torch.set_num_threads(num_threads)
        for first, second in ((0, 1), (1, 0), (4, 2), (3, 3)):
            decoded = vq(images[[first, second]], grid)
            assert torch.equal(decoded, expected[[first, second]]), f"{num_threads} threads, {first} and {second}"


def test_the_decoder_takes_only_its_tensors() -> None:
    checkpoint = fetched(TINY)
    weights, shape = read_weights(checkpoint, dtype=torch.float32, device="cpu"), checkpoint.shape
    load_vq_decoder(weights, shape.vq)
    assert "gen_embed.weight" in weights
    assert not any(name.startswith("gen_vision_model.") for name in weights)
