"""The VAE's decoder: the reference's pixels, the same bytes in any batch, and refused VAEs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.errors import CheckpointError, InputError
from actors.janusflow.decoder import VAE
from tests.support.checkpoints import vae_in
from tests.support.flow_engine import TINY, golden

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def vae(request: pytest.FixtureRequest) -> VAE:
    return VAE(vae_in(TINY / "vae"), dtype=request.param, device=CPU)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY / "vae", tmp_path / "vae", copy_function=shutil.copyfile))


@pytest.fixture
def num_threads_kept() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def latents(num_images: int) -> torch.Tensor:
    return torch.randn(num_images, 4, 12, 12, generator=torch.Generator().manual_seed(0))


def test_images_match_the_reference() -> None:
    parts = golden("flow_parts.npz")
    vae = VAE(vae_in(TINY / "vae"), dtype=torch.float32, device=CPU)
    z_BCHW = torch.from_numpy(parts["zT"])

    torch.testing.assert_close(vae.decode_call(z_BCHW), torch.from_numpy(parts["vae_decoded_f32"]), rtol=0, atol=5e-5)
    difference = np.abs(vae.decode(z_BCHW).pixels.numpy().astype(int) - parts["images"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_an_image_has_the_same_bytes_alone_and_at_any_position(vae: VAE) -> None:
    z_BCHW = latents(5)
    together = vae.decode(z_BCHW).pixels.numpy()

    assert together.shape == (5, 96, 96, 3)
    assert np.array_equal(vae.decode(z_BCHW.flip(0)).pixels.numpy(), together[::-1])
    for row in range(5):
        assert np.array_equal(vae.decode(z_BCHW[row : row + 1]).pixels.numpy()[0], together[row])


@pytest.mark.usefixtures("num_threads_kept")
def test_an_image_has_the_same_bytes_with_any_number_of_threads(vae: VAE) -> None:
    torch.set_num_threads(1)
    expected = vae.decode(latents(2)).pixels.numpy()

    for num_threads in (2, 3, 8):
        torch.set_num_threads(num_threads)
        assert np.array_equal(vae.decode(latents(2)).pixels.numpy(), expected), f"{num_threads} threads"


def test_no_latents_decode_to_no_images(vae: VAE) -> None:
    assert vae.decode(latents(0)).pixels.numpy().shape[0] == 0


def test_the_encoder_is_dropped(vae: VAE) -> None:
    assert {name.split(".")[0] for name, _ in vae.model.named_parameters()} == {"decoder", "post_quant_conv"}


def test_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"must be bfloat16 or float32 .* become NaN; got float16"):
        VAE(vae_in(TINY / "vae"), dtype=torch.float16, device=CPU)


def test_a_folder_that_lacks_a_tensor_of_the_decoder_is_refused(folder: Path) -> None:
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    del weights["decoder.conv_out.bias"]
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")

    with pytest.raises(CheckpointError, match=r"lacks 1 of the VAE decoder's tensors, decoder\.conv_out\.bias"):
        VAE(vae_in(folder), dtype=torch.float32, device=CPU)


def test_a_folder_without_an_encoder_is_accepted(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: weights[name] for name in weights if not name.startswith(("encoder.", "quant_conv."))}, path)

    vae = VAE(vae_in(folder), dtype=torch.float32, device=CPU)

    expected = VAE(vae_in(TINY / "vae"), dtype=torch.float32, device=CPU).decode(latents(1)).pixels.numpy()
    assert np.array_equal(vae.decode(latents(1)).pixels.numpy(), expected)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"])
def test_files_next_to_an_empty_one_are_read(name: str, folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), folder / name) if name.endswith(".bin") else shutil.copy(path, folder / name)
    path.write_bytes(b"")

    vae = VAE(vae_in(folder), dtype=torch.float32, device=CPU)

    expected = VAE(vae_in(TINY / "vae"), dtype=torch.float32, device=CPU).decode(latents(1)).pixels.numpy()
    assert np.array_equal(vae.decode(latents(1)).pixels.numpy(), expected)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"holds no weights: expected diffusion_pytorch_model.safetensors"):
        VAE(vae_in(folder), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [8, 8, 16, 65536]}, r"has shape \[.*\], its config.json means \[.*65536"),
        ({"layers_per_block": 1}, "of the decoder's tensors that its config.json does not ask for"),
        ({"layers_per_block": 3}, "lacks .* of the VAE decoder's tensors"),
        ({"norm_num_groups": 0}, r"its config.json is wrong \(ZeroDivisionError"),
        ({"norm_num_groups": "x"}, r"its config.json is wrong \(TypeError"),
        ({"up_block_types": [1, 2, 3, 4]}, "its config.json is wrong"),
        ({"up_block_types": 7}, "its config.json is wrong"),
        ({"act_fn": "nothing"}, "its config.json is wrong"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(changes: dict, message: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))

    with pytest.raises(CheckpointError, match=message):
        VAE(vae_in(folder), dtype=torch.float32, device=CPU)


def test_nan_is_told_apart_per_image(vae: VAE) -> None:
    z_BCHW = latents(3)
    z_BCHW[1, 0, 5, 5] = float("nan")

    assert vae.decode(z_BCHW).is_finite_B.tolist() == [True, False, True]
