"""Image files: the pixels come back, and the settings are in the file where other programs look for them."""

from __future__ import annotations

import io
import json
import re
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
from PIL import Image

from actors.request import ImageRequest, RenderedImage
from tests.support.toy_job import recipe
from workflows.output.encode import EXTENSIONS, encode_image

FORMATS = tuple(EXTENSIONS)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


def request(**changes) -> ImageRequest:
    fields = {
        "image_id": "x_0",
        "prompt_id": "x",
        "image_index": 0,
        "prompt": "a red fox, oil on canvas",
        "negative_prompt": "blurry",
        "seed": 2**64 - 1,
        "cfg_weight": 5.0,
        "temperature": 1.0,
    }
    return ImageRequest(**{**fields, **changes})


def image_of(pixels: np.ndarray, num_codes: int | None = None) -> RenderedImage:
    codes = None if num_codes is None else np.zeros(num_codes, np.int32)
    return RenderedImage(image_id="x_0", pixels=pixels, codes=codes)


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def comment(data: bytes, image_format: str) -> str:
    """The settings as a program that knows the format finds them."""
    image = decode(data)
    if image_format == "png":
        return image.info["parameters"]
    raw = image.getexif().get_ifd(0x8769)[0x9286]
    assert raw.startswith(b"UNICODE\0")
    return raw[8:].decode("utf-16-be")


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_lossless_formats_keep_the_pixels(image_format: str) -> None:
    image = decode(encode_image(image_of(PIXELS), image_format, request(), recipe()))

    assert image.format == image_format.upper()
    assert np.array_equal(np.asarray(image.convert("RGB")), PIXELS)


def test_jpeg_is_close() -> None:
    smooth = np.linspace(0, 255, 24 * 16 * 3).reshape(24, 16, 3).astype(np.uint8)

    image = decode(encode_image(image_of(smooth), "jpeg", request(), recipe()))

    assert (image.format, image.size) == ("JPEG", (16, 24))
    assert np.abs(np.asarray(image).astype(int) - smooth).max() < 8


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_file_holds_the_settings(image_format: str) -> None:
    data = encode_image(image_of(PIXELS, 576), image_format, request(), recipe(checkpoint="deepseek-ai/Janus-Pro-1B"))

    assert comment(data, image_format) == (
        "a red fox, oil on canvas\n"
        "Negative prompt: blurry\n"
        "Steps: 576, Sampler: toy-1, CFG scale: 5, Seed: 18446744073709551615, Size: 16x24, Model hash: e3b0c44298, "
        "Model: Janus-Pro-1B, Temperature: 1.0"
    )


def test_settings_that_are_none_are_left_out() -> None:
    steps = request(negative_prompt=None, temperature=None, num_inference_steps=30, cfg_weight=2.5)

    text = comment(encode_image(image_of(PIXELS), "png", steps, recipe(checkpoint="/models/flow/")), "png")

    assert text.splitlines()[1].startswith("Steps: 30, Sampler: toy-1, CFG scale: 2.5, Seed: ")
    assert text.endswith("Model: flow")


@pytest.mark.parametrize("image_format", FORMATS)
def test_xmp_holds_the_digital_source_type(image_format: str) -> None:
    image = decode(encode_image(image_of(PIXELS), image_format, request(), recipe()))
    packet = image.info["XML:com.adobe.xmp"] if image_format == "png" else image.info["xmp"].decode()

    root = ET.fromstring(packet)
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")

    assert description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_same_input_gives_the_same_bytes_and_another_prompt_gives_others(image_format: str) -> None:
    def encode(**changes) -> bytes:
        return encode_image(image_of(PIXELS.copy()), image_format, request(**changes), recipe())

    assert encode() == encode()
    assert encode() != encode(prompt="a blue fox")


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    "prompt", ["a 🦊 with a 👩‍👩‍👧", "قطة \u202eחתול", "line\nbreak", '<xml> & "quotes" ?>', "é" * 5000]
)
def test_odd_prompts_are_kept(image_format: str, prompt: str) -> None:
    data = encode_image(image_of(PIXELS), image_format, request(prompt=prompt), recipe())

    assert comment(data, image_format).startswith(f"{prompt}\nNegative prompt: blurry\n")


@pytest.mark.parametrize("image_format", FORMATS)
def test_nul_is_replaced_because_a_text_chunk_cannot_hold_it(image_format: str) -> None:
    data = encode_image(image_of(PIXELS), image_format, request(prompt="a\0b", negative_prompt="c\0d"), recipe())

    assert comment(data, image_format).startswith("a\ufffdb\nNegative prompt: c\ufffdd\n")


@pytest.mark.parametrize("character", ["x", "🦊"])
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_prompt_of_any_length_can_be_stored(image_format: str, character: str) -> None:
    """A JPEG has 64 KiB for its comment: prompts are cut there, and the manifest has them whole."""
    data = encode_image(image_of(PIXELS), image_format, request(prompt=character * 70_000), recipe())

    text = comment(data, image_format)
    num_characters = 8_000 if image_format == "jpeg" else 70_000
    assert text.splitlines()[0] == character * num_characters
    assert text.splitlines()[-1].startswith("Steps: 1, Sampler: toy-1, ")


def test_other_readers_accept_the_png() -> None:
    data = encode_image(image_of(PIXELS), "png", request(), recipe())
    position, chunks = 8, []
    while position < len(data):
        size, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + size]
        assert struct.unpack(">I", data[position + 8 + size : position + 12 + size])[0] == zlib.crc32(kind + body)
        chunks.append((kind, body.partition(b"\0")[0] if kind == b"iTXt" else b""))
        position += 12 + size

    assert (chunks[0][0], chunks[-1][0]) == (b"IHDR", b"IEND")
    assert {name for kind, name in chunks if kind == b"iTXt"} == {b"parameters", b"XML:com.adobe.xmp"}


# The regular expression, the unquoting and the test for settings of AUTOMATIC1111's modules/infotext_utils.py.
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_settings(text: str) -> dict[str, str]:
    """The settings as readers of AUTOMATIC1111's format find them."""
    found = SETTING.findall(text.strip().split("\n")[-1])
    assert len(found) >= 3
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found}


@pytest.mark.parametrize(
    "model",
    [
        "Janus-Pro-1B",
        "a, b",
        "v1: final",
        'the "best", one',
        "line\nbreak",
        "back\\slash, 2",
        "é, 🦊",
        "Seed: 1, Model: x",
    ],
)
def test_settings_are_read_back_whatever_the_model_is_called(model: str) -> None:
    data = encode_image(image_of(PIXELS, 576), "png", request(), recipe(checkpoint=f"/models/{model}"))

    assert read_settings(comment(data, "png")) == {
        "Steps": "576",
        "Sampler": "toy-1",
        "CFG scale": "5",
        "Seed": "18446744073709551615",
        "Size": "16x24",
        "Model hash": "e3b0c44298",
        "Model": model,
        "Temperature": "1.0",
    }


@pytest.mark.parametrize("prompt", ["a", "Steps: 3, a: b, c: d", "x\nSteps: 1, Seed: 2, Size: 3"])
def test_settings_in_a_prompt_are_not_taken_for_those_of_the_image(prompt: str) -> None:
    data = encode_image(image_of(PIXELS, 16), "png", request(prompt=prompt), recipe())

    assert read_settings(comment(data, "png"))["Steps"] == "16"
