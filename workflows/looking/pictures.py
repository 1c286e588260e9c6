"""Reads the images of a shard's rows: from a path, a URL, bytes, or the images of another output.

An image that cannot be read is a reason to reject its row. A store that does not answer is not: the shard is read again
later. A web server is no store, so a page that does not answer after a few tries is a reason, too.
"""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from actors.errors import one_line, reason_line
from actors.recipe import Look
from actors.understanding.pixels import Square, to_square
from workflows.output.layouts import read_pack
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import LASTING_ERRORS, does_not_answer
from workflows.storage.path import check_location, is_local
from workflows.storage.store import Storage, open_url

NUM_READERS = 8  # threads; each may hold one decoded image of MAX_PIXELS
MAX_BYTES = 100 * 2**20  # of a file
MAX_PIXELS = 2**26  # of an image: 8192 x 8192, 200 MB once it is decoded
# Formats that Pillow decodes by itself. Others call programs (EPS) or hold documents.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
NUM_TRIES, WAIT_SECONDS, HTTP_SECONDS = 3, 1.0, 60.0  # of a web server
PACK_ENDINGS = (".tar", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """An image on the square that the model reads, and what it was made from. `location` is None for bytes of a row."""

    pixels: np.ndarray
    location: str | None
    sha256: str
    width: int
    height: int


def read_pictures(values: Sequence[Any], look: Look, storage: dict[str, Any]) -> list[Picture | ValueError]:
    """The picture of each value, or the reason why it cannot be read.

    A value is a location (text), the bytes of a file, a `{bytes, path}` struct, None, or the reason why there is none.
    Raises what the library of a store raises if it does not answer.
    """
    packs = _Packs(_members_by_pack(values), look.root, storage)
    square = Square(size=look.image_size, min_side=look.min_side, ground=look.ground)

    def read(value: Any) -> Picture | ValueError:
        if isinstance(value, ValueError):
            return value
        try:
            location, data = _location_and_bytes(value)
            if data is None:
                assert location is not None
                data = packs.read(location) if _is_member(location) else read_bytes(location, look.root, storage)
            return _picture(data, square, location)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(NUM_READERS) as readers:
        return list(readers.map(read, values))


def decode(data: bytes) -> np.ndarray:
    """The pixels of an image file as the reference reads them, uint8 [height, width, 3]; EXIF rotation is ignored.

    Transparency is dropped, and other color spaces are converted by Pillow's `convert("RGB")`. Raises ValueError for
    anything that is not one whole image of at most MAX_PIXELS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about images that are refused below, and about odd metadata
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image)
                return np.asarray(image.convert("RGB"))
        except MemoryError:
            raise
        except UnidentifiedImageError as error:
            raise ValueError(f"it is no image that can be read ({', '.join(FORMATS)})") from error
        except Image.DecompressionBombError as error:
            raise ValueError(f"the image must have at most {MAX_PIXELS:,} pixels") from error
        except _PictureError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # Pillow's decoders raise almost every kind for a file that is damaged
            raise ValueError(f"the image cannot be decoded: {_detail(error)}") from error


def read_bytes(location: str, root: str, storage: dict[str, Any]) -> bytes:
    """The bytes of an image file; relative locations are below `root`. Raises ValueError if there is no such file."""
    url = _absolute(location, root)
    is_web = url.startswith(("http://", "https://"))
    for num_left in reversed(range(NUM_TRIES if is_web else 1)):
        try:
            return _read_file(url, storage, is_web=is_web)
        except ValueError:
            raise
        except Exception as error:
            if is_web and num_left and does_not_answer(error):
                time.sleep(WAIT_SECONDS)
            elif is_web or isinstance(error, LASTING_ERRORS):
                raise ValueError(f"the image {one_line(location)} cannot be read: {_detail(error)}") from error
            else:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


class _PictureError(Exception):
    """An image that is refused for what it is."""


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _PictureError(f"the image must have at most {MAX_PIXELS:,} pixels, got {width} x {height}")
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format != "MPO":  # a photo with a preview or a second lens's view after it
        raise _PictureError(f"the image must have one frame, got {num_frames}")


def _picture(data: bytes, square: Square, location: str | None) -> Picture:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the image file must have at most {MAX_BYTES:,} bytes, got {len(data):,}")
    pixels = decode(data)
    return Picture(
        pixels=to_square(pixels, square),
        location=location,
        sha256=hashlib.sha256(data).hexdigest(),
        width=pixels.shape[1],
        height=pixels.shape[0],
    )


def _location_and_bytes(value: Any) -> tuple[str | None, bytes | None]:
    """A row's value: where the image is, and its bytes if the row holds them. Raises ValueError for neither."""
    location, data = None, value
    if isinstance(value, Mapping):  # the struct of Hugging Face `datasets`
        location, data = value.get("path"), value.get("bytes")
    if isinstance(data, str):
        location, data = data, None
    if data is None and location is None:
        raise ValueError("image is null")
    if location is not None and data is None:
        check_location(location)
    return location, data


def _absolute(location: str, root: str) -> str:
    if "://" in location or location.startswith("/"):
        return location
    if ".." in location.split("/"):
        raise ValueError(f"the relative location of an image must not contain .., got {one_line(location)}")
    return f"{root}/{location}"


def _read_file(url: str, storage: dict[str, Any], *, is_web: bool) -> bytes:
    """Up to MAX_BYTES and one more, which says that there are too many."""
    fs, path = open_url(url, {**storage, **_web_options()} if is_web else storage)
    info = {} if is_web else fs.info(path)
    if info.get("type", "file") != "file":
        raise ValueError(f"the image {one_line(url)} must be a file; it is a {info['type']}")
    with fs.open(path, "rb", **({"block_size": 0} if is_web else {})) as file:
        data: bytes = file.read(MAX_BYTES + 1)
        return data


def _web_options() -> dict[str, Any]:
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=HTTP_SECONDS)}}


# ---- images in the packs of another output ---------------------------------------------------------------------------


def _is_member(location: str) -> bool:
    """Whether a location names a member of a pack, as a manifest does: `images/SHARD.tar#NAME`."""
    return location.partition("#")[0].endswith(PACK_ENDINGS) and "#" in location


def _members_by_pack(values: Iterable[Any]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = defaultdict(set)
    for value in values:
        location = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else value
        if isinstance(location, str) and _is_member(location):
            pack, _, name = location.partition("#")
            members[pack].add(name)
    return members


class _Packs:
    """The members that a shard's rows name. Each pack is read once, before the rows."""

    def __init__(self, members: Mapping[str, set[str]], root: str, storage: dict[str, Any]) -> None:
        self._found: dict[str, bytes] = {}
        self._faults: dict[str, str] = {}
        for pack, names in members.items():
            try:
                folder, _, name = _absolute(pack, root).rpartition("/")
                read = read_pack(Storage(folder, {} if is_local(folder) else storage), name)
                self._found |= {f"{pack}#{name}": read[name] for name in names if name in read}
            except (ValueError, FileNotFoundError, DamagedFileError) as error:
                self._faults[pack] = reason_line(error)

    def read(self, location: str) -> bytes:
        if location in self._found:
            return self._found[location]
        pack, _, name = location.partition("#")
        detail = self._faults.get(pack, f"the file has no member {one_line(name)}")
        raise ValueError(f"the image {one_line(location)} cannot be read: {detail}")


def _detail(error: BaseException) -> str:
    return "there is no such file" if isinstance(error, FileNotFoundError) else reason_line(error)
