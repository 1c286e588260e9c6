"""The image decoder of a GPU: the CPU decoders' numbers, and an image's bits in any batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from actors.janus import decoder as janus_decoder
from actors.janusflow import decoder as janusflow_decoder
from actors.kernels.image_decoder import ImageDecoder, decode
from actors.layers import to_uint8
from tests.support import flow_engine, janus_engine
from tests.support.checkpoints import vae_in
from tests.support.triton import DEVICE, needs_triton, random


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@needs_triton
def test_images_of_codes_are_those_of_the_cpus_decoder() -> None:
    vq = janus_engine.engine().vq
    codes_BN = torch.randint(vq.quantize.embedding.num_embeddings, (1, 6), generator=torch.Generator().manual_seed(0))
    decoded = decode(janus_decoder.decoder_layers(vq), vq.look_up(codes_BN.to(DEVICE), (2, 3)))
    torch.testing.assert_close(decoded, vq(codes_BN.to(DEVICE), (2, 3)), rtol=0, atol=1e-4)


@needs_triton
def test_images_of_latents_are_those_of_diffusers() -> None:
    vae = janusflow_decoder.VAE(vae_in(flow_engine.TINY / "vae"), dtype=torch.float32, device=DEVICE)
    z = random(1, 4, 3, 4)
    expected = vae.decode_call(z)
    decoded = decode(janusflow_decoder.decoder_layers(vae.model), z / vae.scaling_factor)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)


@needs_triton
def test_an_images_bytes_do_not_depend_on_its_batch_and_nan_is_noted() -> None:
    vae = janusflow_decoder.VAE(vae_in(flow_engine.TINY / "vae"), dtype=torch.float32, device=DEVICE)
    layers, z = janusflow_decoder.decoder_layers(vae.model), random(3, 4, 2, 2)
    decoder = ImageDecoder(layers, lambda z: z, z[:1])
    expected = decoder(z)
    z[1] = torch.nan
    decoded = decoder(z)
    assert decoded.is_finite_B.tolist() == [True, False, True]
    assert torch.equal(decoded.pixels[[0, 2]], expected.pixels[[0, 2]])
    assert torch.equal(decoder(z[2:]).pixels[0], expected.pixels[2])
    assert torch.equal(decoded.pixels[2], to_uint8(decode(layers, z[2:]))[0])
    assert decoder(z[:0]).pixels.shape[0] == 0
