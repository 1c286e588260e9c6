"""Images from every place, as the reference reads them; and those that are refused, each with its reason."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.understanding.pixels import Square, to_square
from tests.support.pictures import animation, bomb, encoded, noise
from tests.support.toy_job import LOOK
from workflows.looking import pictures
from workflows.looking.pictures import Picture, decode, read_pictures

SQUARE = Square(size=64, min_side=14, ground=(127, 127, 127))


def read(folder: Path, *values: object) -> list[Picture | ValueError]:
    return read_pictures(values, dataclasses.replace(LOOK, root=str(folder)), {})


def reason(folder: Path, value: object) -> str:
    (found,) = read(folder, value)
    assert isinstance(found, ValueError)
    return str(found)


def test_an_image_is_read_from_a_path_a_url_bytes_or_a_struct(tmp_path: Path) -> None:
    data = encoded(noise())
    (tmp_path / "a b.png").write_bytes(data)
    path = str(tmp_path / "a b.png")
    values = ["a b.png", path, f"file://{path}", data, {"bytes": data, "path": "x.png"}, {"bytes": None, "path": path}]
    for found, location in zip(read(tmp_path, *values), ["a b.png", *values[1:3], None, "x.png", path], strict=True):
        assert isinstance(found, Picture)
        assert np.array_equal(found.pixels, to_square(noise(), SQUARE))
        assert (found.location, found.width, found.height) == (location, 40, 30)
        assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("JPEG", "CMYK"),
        ("TIFF", "CMYK"),
        ("WEBP", "RGBA"),
        ("BMP", "RGB"),
        ("GIF", "P"),
    ],
)
def test_other_color_spaces_are_converted_as_pillow_does(file_format: str, mode: str) -> None:
    data = encoded(noise(), file_format, mode=mode)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(data), expected)
    assert decode(data).shape == (30, 40, 3)


def test_sixteen_bits_are_converted_as_pillow_does() -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)).save(file, "PNG")
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert image.mode == "I;16"
        assert np.array_equal(decode(file.getvalue()), np.asarray(image.convert("RGB")))


def test_the_rotation_of_a_camera_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    assert decode(encoded(noise(), "JPEG", exif=exif)).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is no image that can be read (PNG, JPEG, "),
        (b"<html>403 Forbidden</html>", "it is no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "it is no image that can be read"),
        (encoded(noise(400, 300))[:2000], "the image cannot be decoded: "),
        (encoded(noise(400, 300), "JPEG")[:2000], "the image cannot be decoded: "),
        (bomb(), "the image must have at most 67,108,864 pixels"),
        (bomb(8200, 8200), "the image must have at most 67,108,864 pixels, got 8200 x 8200"),
        (animation(3), "the image must have one frame, got 3"),
        (animation(2, "PNG"), "the image must have one frame, got 2"),
        (animation(2, "TIFF"), "the image must have one frame, got 2"),
    ],
)
def test_what_is_not_one_whole_image_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    assert reason(tmp_path, data).startswith(message)


def test_a_photo_with_a_second_view_after_it_is_its_first_view() -> None:
    views = [Image.fromarray(noise(seed=seed)) for seed in range(2)]
    file = io.BytesIO()
    views[0].save(file, "MPO", save_all=True, append_images=views[1:])
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert np.array_equal(decode(file.getvalue()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "image is null"),
        ({"bytes": None, "path": None}, "image is null"),
        ("missing.png", "the image missing.png cannot be read: there is no such file"),
        ("folder", "must be a file; it is a directory"),
        ("../secret.png", "the relative location of an image must not contain .., got ../secret.png"),
        ("nothing://host/a.png", "nothing"),
        ("https://host/a.png?X-Amz-Signature=1", "an address with a signature, key or token in its query is refused"),
        ("images/x.tar#a.png", "the image images/x.tar#a.png cannot be read: "),
        (ValueError("image is not valid UTF-8 text"), "image is not valid UTF-8 text"),
    ],
)
def test_an_image_that_cannot_be_read_is_a_reason(value: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert message in reason(tmp_path, value)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    assert "must have at most 100 bytes" in reason(tmp_path, "a.png")
    assert "must have at most 100 bytes, got " in reason(tmp_path, encoded(noise()))


def test_images_in_the_packs_of_an_output_are_read_once_per_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    with tarfile.open(tmp_path / "images/s.tar", "w") as tar:
        for seed in range(3):
            data = encoded(noise(seed=seed))
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packs, read_pack = [], pictures.read_pack
    monkeypatch.setattr(pictures, "read_pack", lambda *where: (packs.append(where[1]), read_pack(*where))[1])
    found = read(tmp_path, "images/s.tar#2.png", "images/s.tar#0.png", "images/s.tar#9.png")
    assert [
        np.array_equal(one.pixels, to_square(noise(seed=seed), SQUARE))
        for one, seed in zip(found, (2, 0), strict=False)
    ] == [True] * 2
    assert str(found[2]) == "the image images/s.tar#9.png cannot be read: the file has no member 9.png"
    assert packs == ["s.tar"]


def test_a_store_that_does_not_answer_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(pictures, "_read_file", unreachable)
    monkeypatch.setattr(pictures, "WAIT_SECONDS", 0)
    with pytest.raises(ConnectionError):
        read(tmp_path, "s3://bucket/a.png")
    assert reason(tmp_path, "https://host/a.png") == "the image https://host/a.png cannot be read: connection reset"
